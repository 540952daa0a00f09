//! `console_io`: the control domain's emergency console, and other guests' where the command line allows it.

use super::{
    args::{ConsoleIo, Resume},
    commands::ConsoleCommand,
    number::{count, index, long},
};
use crate::{
    caller::Caller,
    machine::Machine,
    reply::{Args, Reply},
};
use core::sync::atomic::Ordering;
use oxen_abi::errno::Errno;

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
        let request = ConsoleIo::from(&*args);
        let may_write =
            request.command == Ok(ConsoleCommand::Write) && self.hv.console.guests_may_write.load(Ordering::Relaxed);
        if !self.domain.is_privileged() && !may_write {
            return Err(Errno::Perm.into());
        }
        match request.command? {
            ConsoleCommand::Write => self.write_console(args, request),
            ConsoleCommand::Read => self.read_console(request),
        }
    }

    fn write_console(&mut self, args: &mut Args, request: ConsoleIo) -> Reply {
        let hv = self.hv;
        let text = request.buffer.range(request.count.into()).ok_or(Errno::Fault)?;
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while done < request.count {
            let rest = request.after(done);
            if done != 0 && self.must_yield() {
                return Err(rest.leave(args));
            }
            let bytes = chunk.get_mut(..index(rest.count).min(CHUNK)).unwrap_or_default();
            let part = text.part(done.into(), long(bytes.len())).ok_or(Errno::Fault)?;
            hv.machine().read_guest(part, bytes).map_err(|_| Errno::Fault)?;
            if self.domain.is_privileged() {
                hv.console.write_raw(hv.machine(), bytes);
            } else {
                hv.console.write_guest(hv.machine(), self.domain.id, &self.domain.console_line, bytes);
            }
            done = done.saturating_add(count(bytes.len()));
        }
        Ok(0)
    }

    fn read_console(&mut self, request: ConsoleIo) -> Reply {
        if i32::try_from(request.count).is_err() {
            return Err(Errno::TooBig.into());
        }
        let mut chunk = [0; CHUNK];
        let room = chunk.get_mut(..index(request.count).min(CHUNK)).unwrap_or_default();
        let buffer = request.buffer.range(long(room.len())).ok_or(Errno::Fault)?;
        let taken = self.hv.console.take_input(room);
        self.hv.machine().write_guest(buffer, room.get(..taken).unwrap_or_default()).map_err(|_| Errno::Fault)?;
        Ok(long(taken))
    }
}
