//! A small HTTP server on the host: one file to fetch, and whatever is posted, by its sum.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, Result};

use crate::disk::sha256;

/// How QEMU's user network calls the host.
pub const HOST: &str = "10.0.2.2";

/// Longest body that is taken.
const MOST: usize = 64 << 20;

/// A server that lives as long as the process.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub port: u16,
    /// The SHA-256 of each body that was posted.
    pub posted: Receiver<String>,
}

impl Server {
    /// Starts serving `file` at every path, on a port that is free.
    ///
    /// # Errors
    /// Fails when there is none.
    pub fn start(file: Vec<u8>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free on this machine")?;
        let port = listener.local_addr()?.port();
        let (sums, posted) = channel();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (file, sums) = (file.clone(), sums.clone());
                // Whoever asks sees what went wrong; the others are still served.
                std::thread::spawn(move || serve(&connection, &file, &sums));
            }
        });
        Ok(Self { port, posted })
    }
}

fn serve(connection: &TcpStream, file: &[u8], sums: &Sender<String>) -> Result<()> {
    let mut reader = BufReader::new(connection);
    let (mut request, mut length) = (String::new(), 0);
    reader.read_line(&mut request)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse::<usize>()?.min(MOST);
        }
    }
    let mut posted = vec![0; length];
    reader.read_exact(&mut posted)?;
    let post = request.starts_with("POST ");
    if post {
        // The scenario may have ended.
        let _ = sums.send(sha256(&posted));
    }
    let body = if post { &[] } else { file };
    let mut out = connection;
    write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    out.write_all(body)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(server: &Server, request: &[u8]) -> Vec<u8> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
        connection.write_all(request).unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_file_is_served_and_a_body_is_summed() {
        let server = Server::start(b"the file".to_vec()).unwrap();
        let answer = ask(&server, b"GET /any HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(
            answer.starts_with(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n") && answer.ends_with(b"\r\n\r\nthe file")
        );
        ask(&server, b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc");
        assert_eq!(server.posted.recv().unwrap(), sha256(b"abc"));
    }
}
