//! What connects a run to its emulator: the serial line, and Bochs's log.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Child;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Said;
use crate::bochs;

/// How long Bochs may take to connect the serial line.
const CONNECTING: Duration = Duration::from_secs(30);

pub(super) fn forward(mut from: impl Read + Send + 'static, to: Sender<Said>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let Some(read) = buffer.get(..count) else { break };
            if to.send(Said::Bytes(read.to_vec())).is_err() {
                break;
            }
        }
    });
}

/// Keeps Bochs's log in a file, and passes on what it means for the run.
pub(super) fn watch(log: impl Read + Send + 'static, mut file: std::fs::File, to: Sender<Said>) {
    std::thread::spawn(move || {
        for line in BufReader::new(log).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line);
            // A disk that is full spoils the log, not the run.
            let _ = writeln!(file, "{line}");
            if let Some(sign) = bochs::sign(&line)
                && to.send(Said::Sign(sign)).is_err()
            {
                break;
            }
        }
    });
}

/// Waits for Bochs to connect the serial line.
pub(super) fn connected(listener: &TcpListener, child: &mut Child) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + CONNECTING;
    loop {
        match listener.accept() {
            Ok((serial, _)) => {
                serial.set_nonblocking(false)?;
                return Ok(serial);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("Bochs cannot connect the serial line"),
        }
        if let Some(status) = child.try_wait()? {
            bail!("Bochs ended ({status}) before it connected the serial line");
        }
        if Instant::now() > end {
            bail!("Bochs has not connected the serial line in time");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
