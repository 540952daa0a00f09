//! What a stream says of one vcpu.

use alloc::{boxed::Box, vec::Vec};

use anyhow::{Result, anyhow};
use oxen_abi::domctl::{DomctlExtVcpucontext, DomctlVcpuMsr};
use oxen_abi::domid::DomId;
use oxen_abi::guest_context::VcpuGuestContext;
use oxen_domu_lib::control;
use zerocopy::FromBytes;

use crate::saved::{record, tables};
use crate::toolstack::build::shell::asked;

/// A vcpu as its records tell of it.
#[derive(Default)]
pub(super) struct Vcpu {
    /// Its registers and tables; frames are pages still.
    pub(super) context: Option<Box<VcpuGuestContext>>,
    extended: Option<DomctlExtVcpucontext>,
    state: Vec<u8>,
    registers: Vec<DomctlVcpuMsr>,
}

impl Vcpu {
    /// Takes what a record says behind its number.
    pub(super) fn take(&mut self, id: u32, kind: u32, body: &[u8]) -> Result<()> {
        let short = || anyhow!("a record of type {kind} has {} bytes", body.len());
        match kind {
            record::PV_VCPU_BASIC => {
                self.context = Some(Box::new(VcpuGuestContext::read_from_bytes(body).map_err(|_| short())?));
            }
            record::PV_VCPU_EXTENDED => {
                let (mut context, _) = DomctlExtVcpucontext::read_from_prefix(body).map_err(|_| short())?;
                context.vcpu = id;
                self.extended = Some(context);
            }
            record::PV_VCPU_XSAVE => self.state = body.into(),
            _ => {
                let registers = body.chunks_exact(size_of::<DomctlVcpuMsr>());
                self.registers = registers.filter_map(|one| DomctlVcpuMsr::read_from_bytes(one).ok()).collect();
            }
        }
        Ok(())
    }

    /// Gives a domain's vcpu all of it; `frame` tells the frame of a page. One that was not up stays down.
    pub(super) fn set(&mut self, domain: DomId, id: u32, frame: impl Fn(u64) -> Result<u64>) -> Result<()> {
        let Some(context) = &mut self.context else { return Ok(()) };
        tables::translate_context(context, frame)?;
        let [_, user_root, ..] = &mut context.ctrlreg;
        // In the stream it says that there is one.
        *user_root &= !1;
        asked("set its registers", control::set_vcpu_context(domain, id, context))?;
        if let Some(extended) = &self.extended {
            asked("set its callbacks", control::set_extended_context(domain, extended))?;
        }
        if record::is_any(&self.state) {
            asked("set its extended registers", control::set_extended_state(domain, id, &self.state))?;
        }
        if !self.registers.is_empty() {
            asked("set its model-specific registers", control::set_vcpu_registers(domain, id, &self.registers))?;
        }
        Ok(())
    }
}
