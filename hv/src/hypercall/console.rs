//! `console_io`: the control domain's emergency console, and other guests' where the command line allows it.

use crate::{
    addr::GuestAddr,
    caller::Caller,
    machine::Machine,
    reply::{Args, Reply, Stop},
};
use core::sync::atomic::Ordering;
use oxen_abi::{
    console_io::{CONSOLEIO_READ, CONSOLEIO_WRITE},
    errno::Errno,
};

/// Bytes taken at a time.
const CHUNK: usize = 128;

impl<M: Machine> Caller<'_, M> {
    /// `console_io(command, count, buffer)`.
    ///
    /// # Errors
    /// `Perm` for guests that may not, `Fault` for the buffer, `TooBig` for an absurd count to read, `NoSys` for other
    /// commands.
    #[inline]
    pub fn console_io(&mut self, args: &mut Args) -> Reply {
        let [command, count, buffer, ..] = *args;
        let (command, count) = (command as u32, count as u32);
        let may_write = command == CONSOLEIO_WRITE && self.hv.console.guests_may_write.load(Ordering::Relaxed);
        if !self.domain.is_privileged && !may_write {
            return Err(Errno::Perm.into());
        }
        match command {
            CONSOLEIO_WRITE => self.write_console(args, count, buffer),
            CONSOLEIO_READ => self.read_console(count, GuestAddr(buffer)),
            _ => Err(Errno::NoSys.into()),
        }
    }

    fn write_console(&mut self, args: &mut Args, count: u32, buffer: u64) -> Reply {
        let hv = self.hv;
        let text = GuestAddr(buffer).range(count.into()).ok_or(Errno::Fault)?;
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while done < count {
            if done != 0 && self.must_yield() {
                args[1] = u64::from(count - done);
                args[2] = buffer + u64::from(done);
                return Err(Stop::Unfinished);
            }
            let bytes = chunk.get_mut(..(count - done).min(CHUNK as u32) as usize).unwrap_or_default();
            let part = text.part(done.into(), bytes.len() as u64).ok_or(Errno::Fault)?;
            hv.machine().read_guest(part, bytes).map_err(|_| Errno::Fault)?;
            if self.domain.is_privileged {
                hv.console.write_raw(hv.machine(), bytes);
            } else {
                hv.console.write_guest(hv.machine(), self.domain.id, &self.domain.console_line, bytes);
            }
            done += bytes.len() as u32;
        }
        Ok(0)
    }

    fn read_console(&mut self, count: u32, buffer: GuestAddr) -> Reply {
        if i32::try_from(count).is_err() {
            return Err(Errno::TooBig.into());
        }
        let mut chunk = [0; CHUNK];
        let room = chunk.get_mut(..count.min(CHUNK as u32) as usize).unwrap_or_default();
        let buffer = buffer.range(room.len() as u64).ok_or(Errno::Fault)?;
        let taken = self.hv.console.take_input(room);
        self.hv.machine().write_guest(buffer, room.get(..taken).unwrap_or_default()).map_err(|_| Errno::Fault)?;
        Ok(taken as u64)
    }
}
