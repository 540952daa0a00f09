//! What each operation should answer, and do to the model.

use crate::world::{DOMAINS, Is, LIMIT, LINES, VCPUS, World};
use oxen_abi::{domid::DomId, errno::Errno, virq::NR_VIRQS};
use oxen_hv::{config::MAX_PIRQS, event::virq};

impl World {
    /// The domain that `me` means by an id.
    pub(crate) fn resolve(me: u16, id: DomId) -> Result<u16, Errno> {
        match id {
            DomId::SELF => Ok(me),
            DomId(id) if id < DOMAINS => Ok(id),
            _ => Err(Errno::Srch),
        }
    }

    pub(crate) fn is(&self, id: u16, port: u32) -> Option<(Is, u32)> {
        self.models[usize::from(id)].ports.get(port as usize).copied()
    }

    pub(crate) fn free_port(&self, id: u16) -> Result<u32, Errno> {
        (1..=LIMIT).find(|&p| self.is(id, p).unwrap().0 == Is::Closed).ok_or(Errno::NoSpc)
    }

    pub(crate) fn open(&mut self, id: u16, is: Is, vcpu: u32) -> Result<u32, Errno> {
        let port = self.free_port(id)?;
        self.model(id).ports[port as usize] = (is, vcpu);
        Ok(port)
    }

    pub(crate) fn set_pending(&mut self, id: u16, port: u32) {
        let vcpu = self.is(id, port).unwrap().1 as usize;
        let model = self.model(id);
        let bit = 1 << port;
        if model.pending & bit == 0 {
            model.pending |= bit;
            if model.mask & bit == 0 && model.selector[vcpu] == 0 {
                model.selector[vcpu] = 1;
                model.upcall[vcpu] = true;
            }
        }
    }

    pub(crate) fn expect_alloc_unbound(&mut self, me: u16, dom: DomId, remote: DomId) -> Result<u32, Errno> {
        let dom = Self::resolve(me, dom)?;
        self.free_port(dom)?;
        if dom != me && me != 0 {
            return Err(Errno::Perm);
        }
        self.open(dom, Is::Unbound(if remote == DomId::SELF { me } else { remote.0 }), 0)
    }

    pub(crate) fn expect_bind_interdomain(&mut self, me: u16, dom: DomId, port: u32) -> Result<u32, Errno> {
        let dom = Self::resolve(me, dom)?;
        self.free_port(me)?;
        let (is, vcpu) = self.is(dom, port).ok_or(Errno::Inval)?;
        if is != Is::Unbound(me) {
            return Err(Errno::Inval);
        }
        let own = self.open(me, Is::Leads(dom, port), 0)?;
        self.model(dom).ports[port as usize] = (Is::Leads(me, own), vcpu);
        self.set_pending(me, own);
        Ok(own)
    }

    pub(crate) fn expect_bind_virq(&mut self, me: u16, virq: u32, vcpu: u32) -> Result<u32, Errno> {
        if virq >= NR_VIRQS || (virq::is_global(virq) && vcpu != 0) {
            return Err(Errno::Inval);
        }
        if vcpu >= VCPUS {
            return Err(Errno::NoEnt);
        }
        let is_bound = |(is, v): (Is, u32)| is == Is::Virq(virq) && (virq::is_global(virq) || v == vcpu);
        if self.model(me).ports.iter().copied().any(is_bound) {
            return Err(Errno::Exist);
        }
        self.open(me, Is::Virq(virq), vcpu)
    }

    pub(crate) fn expect_bind_ipi(&mut self, me: u16, vcpu: u32) -> Result<u32, Errno> {
        if vcpu >= VCPUS { Err(Errno::NoEnt) } else { self.open(me, Is::Ipi, vcpu) }
    }

    pub(crate) fn expect_bind_pirq(&mut self, me: u16, pirq: u32) -> Result<u32, Errno> {
        // A guest that is not dom0 has 24 lines and 32 numbers beyond.
        if pirq >= if me == 0 { MAX_PIRQS as u32 } else { 56 } {
            return Err(Errno::Inval);
        }
        if me != 0 || pirq >= LINES {
            return Err(Errno::Perm);
        }
        if self.model(me).ports.iter().any(|p| p.0 == Is::Pirq(pirq)) {
            return Err(Errno::Exist);
        }
        self.free_port(me)?;
        self.open(me, Is::Pirq(pirq), 0)
    }

    pub(crate) fn expect_bind_vcpu(&mut self, me: u16, port: u32, vcpu: u32) -> Result<(), Errno> {
        if vcpu >= VCPUS {
            return Err(Errno::NoEnt);
        }
        match self.is(me, port).ok_or(Errno::Inval)?.0 {
            Is::Closed | Is::Ipi => return Err(Errno::Inval),
            Is::Virq(virq) if !virq::is_global(virq) => return Err(Errno::Inval),
            _ => {}
        }
        self.model(me).ports[port as usize].1 = vcpu;
        Ok(())
    }

    pub(crate) fn expect_close(&mut self, me: u16, port: u32) -> Result<(), Errno> {
        match self.is(me, port).ok_or(Errno::Inval)?.0 {
            Is::Closed => return Err(Errno::Inval),
            Is::Leads(dom, there) => self.model(dom).ports[there as usize].0 = Is::Unbound(me),
            _ => {}
        }
        let model = self.model(me);
        model.ports[port as usize] = (Is::Closed, 0);
        model.pending &= !(1 << port);
        Ok(())
    }

    pub(crate) fn expect_send(&mut self, me: u16, port: u32) -> Result<(), Errno> {
        match self.is(me, port).ok_or(Errno::Inval)?.0 {
            Is::Leads(dom, there) => self.set_pending(dom, there),
            Is::Ipi => self.set_pending(me, port),
            Is::Unbound(_) => {}
            Is::Closed | Is::Virq(_) | Is::Pirq(_) => return Err(Errno::Inval),
        }
        Ok(())
    }

    pub(crate) fn expect_unmask(&mut self, me: u16, port: u32) -> Result<(), Errno> {
        let (is, vcpu) = self.is(me, port).ok_or(Errno::Inval)?;
        let model = self.model(me);
        if is != Is::Closed && model.mask & 1 << port != 0 {
            model.mask &= !(1 << port);
            if model.pending & 1 << port != 0 && model.selector[vcpu as usize] == 0 {
                model.selector[vcpu as usize] = 1;
                model.upcall[vcpu as usize] = true;
            }
        }
        Ok(())
    }
}
