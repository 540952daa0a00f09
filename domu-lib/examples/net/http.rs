//! HTTP as far as a test needs it: a server of a page and of a pattern, and a client that sums up what it fetches.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write;

use oxen_domu_lib::ip::Broken;
use oxen_domu_lib::ip::smoltcp::wire::Ipv4Address;
use oxen_domu_lib::{println, start_info, time};
use sha2::{Digest, Sha256};

use crate::stack::{Stack, Tcp, place};

/// Where the server listens.
const PORT: u16 = 80;
/// Bytes of a request or of a response's head that are looked at.
const LONGEST_HEAD: usize = 8 * 1024;
/// Bytes of the pattern that are made at a time; a multiple of 8.
const STEP: u64 = 16 * 1024;
/// How long the other end has to close too.
const FAREWELL: u64 = 5 * time::SECOND;

/// Serves one client after the other.
pub(crate) async fn serve(stack: Stack, name: String) {
    let place = place(&stack);
    loop {
        if place.listen(PORT).is_ok() && place.established().await {
            let peer = place.peer().map_or_else(String::new, |peer| peer.addr.to_string());
            if answer(&place, &name, &peer).await.is_err() {
                println!("net: http: {peer} broke the connection off");
            }
        }
        place.close(FAREWELL).await;
    }
}

/// Reads up to the empty line; what came behind it is returned too, apart.
async fn head(place: &Tcp) -> Result<(String, Vec<u8>), Broken> {
    let mut bytes = Vec::new();
    loop {
        let taken = place.read(|part| {
            bytes.extend_from_slice(part);
            part.len()
        });
        if taken.await? == 0 {
            return Err(Broken);
        }
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        // A frame that nobody cut brings much more than the head at once.
        if bytes.len() > LONGEST_HEAD {
            return Err(Broken);
        }
    }
}

async fn answer(place: &Tcp, name: &str, peer: &str) -> Result<(), Broken> {
    let (request, _) = head(place).await?;
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let length = path.strip_prefix("/bytes/").and_then(|count| count.parse().ok());
    let (status, result) = match (method, path, length) {
        ("GET", _, Some(length)) => {
            begin(place, "200 OK", "application/octet-stream", length).await?;
            (200, pattern(place, length).await?)
        }
        ("GET", "/", _) => (200, text(place, "200 OK", &page(name)).await?),
        ("GET", ..) => (404, text(place, "404 Not Found", "There is / and /bytes/N.\n").await?),
        _ => (405, text(place, "405 Method Not Allowed", "There is GET alone.\n").await?),
    };
    println!("net: http: {peer} {method} {path}: {status}, {result}");
    Ok(())
}

async fn begin(place: &Tcp, status: &str, kind: &str, length: u64) -> Result<(), Broken> {
    let head =
        format!("HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    place.write(head.as_bytes()).await
}

async fn text(place: &Tcp, status: &str, text: &str) -> Result<String, Broken> {
    begin(place, status, "text/plain", text.len() as u64).await?;
    place.write(text.as_bytes()).await?;
    Ok(format!("{} bytes", text.len()))
}

fn page(name: &str) -> String {
    format!(
        "This is {name}, a guest on {}, up for {} ms.\nIts command line: {}\n/bytes/N is N bytes of a pattern.\n",
        start_info::magic(),
        time::now() / time::MILLISECOND,
        start_info::command_line(),
    )
}

/// Sends bytes of which the 8 at offset *o* are the number *o* × 0x9e3779b97f4a7c15 modulo 2^64, little-endian.
async fn pattern(place: &Tcp, length: u64) -> Result<String, Broken> {
    let begun = time::now();
    let mut digest = Sha256::new();
    let mut at = 0;
    let mut part = Vec::with_capacity(STEP as usize);
    while at < length {
        let count = STEP.min(length - at);
        part.clear();
        part.extend((at..at + count).step_by(8).flat_map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()));
        part.truncate(count as usize);
        digest.update(&part);
        place.write(&part).await?;
        at += count;
    }
    Ok(format!("{length} bytes in {} ms, sha256 {}", milliseconds(begun), hex(digest)))
}

fn milliseconds(begun: u64) -> u64 {
    (time::now() - begun) / time::MILLISECOND
}

pub(crate) fn hex(digest: Sha256) -> String {
    digest.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
        // A string takes everything.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The parts of `http://a.b.c.d[:port]/path`.
fn parse(url: &str) -> Option<(Ipv4Address, u16, &str)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (address, port) = host.split_once(':').unwrap_or((host, "80"));
    Some((address.parse().ok()?, port.parse().ok()?, if path.is_empty() { "/" } else { path }))
}

/// Fetches `url` and says what it was.
pub(crate) async fn fetch(stack: &Stack, url: &str) -> Result<String, String> {
    let (address, port, path) = parse(url).ok_or("not http://a.b.c.d[:port]/path")?;
    let begun = time::now();
    let place = place(stack);
    let fetched = async {
        place.dial(address, port)?;
        if !place.established().await {
            return Err(Broken);
        }
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}:{port}\r\nConnection: close\r\n\r\n");
        place.write(request.as_bytes()).await?;
        let (head, begin) = head(&place).await?;
        let (mut digest, mut length) = (Sha256::new(), begin.len() as u64);
        digest.update(&begin);
        let mut buffer = vec![0; 64 * 1024];
        while length < content_length(&head).unwrap_or(u64::MAX) {
            let count = place.read_some(&mut buffer).await?;
            if count == 0 {
                break;
            }
            digest.update(buffer.get(..count).unwrap_or_default());
            length += count as u64;
        }
        Ok::<_, Broken>((head, length, digest))
    };
    let (head, length, digest) = fetched.await.map_err(|Broken| "the connection broke off")?;
    let took = milliseconds(begun);
    place.close(FAREWELL).await;
    let status = head.split_whitespace().nth(1).unwrap_or("no status");
    match content_length(&head) {
        Some(announced) if announced != length => Err(format!("{length} bytes of {announced}")),
        _ if status != "200" => Err(format!("the server says {status}")),
        _ => Ok(format!("{length} bytes in {took} ms, sha256 {}", hex(digest))),
    }
}

fn content_length(head: &str) -> Option<u64> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}
