//! What each operation should answer, and do to the model.

use crate::{
    model::{Is, MASKED, PENDING, Queues},
    world::{VCPUS, World},
};
use oxen_abi::errno::Errno;

impl World {
    pub(crate) fn expect_init(&mut self, me: u16, vcpu: u32, is_frame_good: bool, offset: u32) -> Result<(), Errno> {
        if vcpu >= VCPUS {
            return Err(Errno::NoEnt);
        }
        let model = self.model(me);
        let has_block = model.fifo.as_ref().is_some_and(|q| q.has_block[vcpu as usize]);
        if offset > 4096 - 72 || !offset.is_multiple_of(8) || !is_frame_good || has_block {
            return Err(Errno::Inval);
        }
        if model.fifo.is_none() {
            model.fifo = Some(Queues::default());
            for (number, port) in model.ports.iter_mut().enumerate() {
                port.awaits_word |= model.pending & 1 << number != 0;
                port.priority = 7;
            }
        }
        model.fifo.as_mut().unwrap().has_block[vcpu as usize] = true;
        Ok(())
    }

    pub(crate) fn expect_expand(&mut self, me: u16, is_frame_good: bool) -> Result<(), Errno> {
        let model = self.model(me);
        let queues = model.fifo.as_mut().ok_or(Errno::OpNotSupp)?;
        if queues.pages == 128 {
            return Err(Errno::NoSpc);
        }
        if !is_frame_good {
            return Err(Errno::Inval);
        }
        queues.pages += 1;
        if queues.pages == 1 {
            (0..64).for_each(|port| {
                if model.ports[port as usize].awaits_word {
                    model.raise(port);
                }
            });
        }
        Ok(())
    }

    pub(crate) fn expect_close(&mut self, me: u16, port: u32) -> Result<(), Errno> {
        match self.model(me).ports.get(port as usize).ok_or(Errno::Inval)?.is {
            Is::Closed => return Err(Errno::Inval),
            Is::Leads(dom, there) => self.model(dom).ports[there as usize].is = Is::Unbound(me),
            Is::Unbound(_) | Is::Ipi => {}
        }
        let model = self.model(me);
        (model.ports[port as usize].is, model.ports[port as usize].vcpu) = (Is::Closed, 0);
        model.clear_pending(port);
        Ok(())
    }

    pub(crate) fn expect_send(&mut self, me: u16, port: u32) -> Result<(), Errno> {
        match self.model(me).ports.get(port as usize).ok_or(Errno::Inval)?.is {
            Is::Closed => return Err(Errno::Inval),
            Is::Leads(dom, there) => self.model(dom).raise(there),
            Is::Ipi => self.model(me).raise(port),
            Is::Unbound(_) => {}
        }
        Ok(())
    }

    pub(crate) fn expect_unmask(&mut self, me: u16, port: u32) -> Result<(), Errno> {
        let model = self.model(me);
        let is = model.ports.get(port as usize).ok_or(Errno::Inval)?.is;
        let has_word = model.fifo.as_ref().is_some_and(|q| q.pages != 0);
        if is != Is::Closed && has_word {
            model.words[port as usize] &= !MASKED;
            if model.words[port as usize] & PENDING != 0 {
                model.raise(port);
            }
        }
        Ok(())
    }

    pub(crate) fn expect_priority(&mut self, me: u16, port: u32, priority: u32) -> Result<(), Errno> {
        let model = self.model(me);
        let place = model.ports.get_mut(port as usize).ok_or(Errno::Inval)?;
        let refusal = match (&model.fifo, place.is) {
            (None, _) => Errno::NoSys,
            (_, Is::Closed) => Errno::Acces,
            _ if priority > 15 => Errno::Inval,
            _ => {
                place.priority = priority as usize;
                return Ok(());
            }
        };
        Err(refusal)
    }

    pub(crate) fn expect_connect(&mut self, me: u16, dom: u16, port: u32) -> Result<u32, Errno> {
        self.model(me).free_port()?;
        let there = self.model(dom).ports.get(port as usize).copied().ok_or(Errno::Inval)?;
        if there.is != Is::Unbound(me) {
            return Err(Errno::Inval);
        }
        let own = self.model(me).open(Is::Leads(dom, port), 0)?;
        self.model(dom).ports[port as usize].is = Is::Leads(me, own);
        self.model(me).raise(own);
        Ok(own)
    }

    pub(crate) fn expect_reset(&mut self, me: u16) {
        (0..64).for_each(|port| _ = self.expect_close(me, port));
        self.model(me).fifo = None;
    }
}
