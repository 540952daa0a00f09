//! `xen_version`: what a guest may know of the hypervisor.

use super::{
    args::XenVersion,
    commands::VersionCommand,
    number::{bytes, index, long},
};
use crate::{
    addr::PAGE_SIZE,
    caller::Caller,
    layout,
    machine::Machine,
    mem::guest_ptr::GuestPtr,
    reply::{Args, Reply},
};
use oxen_abi::{errno::Errno, features as feature, version as abi, vm_assist::Assists};

/// Xen 4.17, whose interface this is.
pub(super) const VERSION: u64 = 4 << 16 | 17;
pub(super) const EXTRA_VERSION: &str = "-oxen";
/// Guests that can be created; ends with a blank, as tools split it there.
const CAPABILITIES: &str = "xen-3.0-x86_64 ";
pub(super) const COMPILER: &str = "rustc";
/// Which state of the source this was built of.
pub(super) const CHANGESET: &str = env!("CARGO_PKG_VERSION");

/// The features of every guest (`XENVER_get_features`, submap 0).
const FEATURES: u32 = 1 << feature::XENFEAT_MMU_PT_UPDATE_PRESERVE_AD
    | 1 << feature::XENFEAT_HIGHMEM_ASSIST
    | 1 << feature::XENFEAT_GNTTAB_MAP_AVAIL_BITS
    | 1 << feature::XENFEAT_MEMORY_OP_VNODE_SUPPORTED
    | DIRECT_FEATURES;

/// What is told to all but those whose frames are translated.
const DIRECT_FEATURES: u32 = 1 << feature::XENFEAT_DIRECT_MAPPED;

/// What a guest is told whose frames are translated for it: it writes its tables itself.
const TRANSLATED_FEATURES: u32 = 1 << feature::XENFEAT_AUTO_TRANSLATED_PHYSMAP
    | 1 << feature::XENFEAT_WRITABLE_PAGE_TABLES
    | 1 << feature::XENFEAT_NOT_DIRECT_MAPPED;

impl<M: Machine> Caller<'_, M> {
    /// `xen_version(command, argument)`.
    ///
    /// # Errors
    /// `Fault` for the argument, `Inval` for a feature map that does not exist, `Perm` for what is the control
    /// domain's, `NoBufs` for too little room, `NoData` for what the image does not carry, `NoSys` for unknown
    /// commands.
    #[inline]
    pub fn xen_version(&mut self, args: &mut Args) -> Reply {
        let request = XenVersion::from(&*args);
        if request.is(VersionCommand::Version) { Ok(VERSION) } else { self.xen_version_slow(request) }
    }

    /// The features of a guest without a root of its own, as one has whose frames are translated.
    #[cold]
    #[inline(never)]
    fn tell_features_of_memory(&mut self, at: u64, mut info: abi::FeatureInfo) -> Reply {
        if self.domain.memory.is_translated() {
            info.submap = info.submap & !DIRECT_FEATURES | TRANSLATED_FEATURES;
        }
        self.copy_to_guest(at, &info)?;
        Ok(0)
    }

    #[inline(never)]
    fn xen_version_slow(&mut self, request: XenVersion) -> Reply {
        let at = request.argument;
        let is_privileged = self.domain.is_privileged();
        match request.command()? {
            VersionCommand::ExtraVersion => self.write_text::<{ abi::XEN_EXTRAVERSION_LEN }>(at, EXTRA_VERSION),
            VersionCommand::CompileInfo => {
                let info = abi::CompileInfo {
                    compiler: text(COMPILER),
                    compile_by: text(""),
                    compile_domain: text(""),
                    compile_date: text(""),
                };
                self.copy_to_guest(at, &info)?;
                Ok(0)
            }
            VersionCommand::Capabilities => self.write_text::<{ abi::XEN_CAPABILITIES_INFO_LEN }>(at, CAPABILITIES),
            VersionCommand::Changeset => self.write_text::<{ abi::XEN_CHANGESET_INFO_LEN }>(at, CHANGESET),
            VersionCommand::PlatformParameters => {
                let parameters = abi::PlatformParameters { virt_start: layout::HYPERVISOR_START };
                self.copy_to_guest(at, &parameters)?;
                Ok(0)
            }
            VersionCommand::GetFeatures => {
                let mut info: abi::FeatureInfo = self.copy_from_guest(at)?;
                if info.submap_idx >= feature::XENFEAT_NR_SUBMAPS {
                    return Err(Errno::Inval.into());
                }
                info.submap = FEATURES
                    | u32::from(is_privileged) << feature::XENFEAT_DOM0
                    | u32::from(self.domain.assists(Assists::PAE_EXTENDED_CR3)) << feature::XENFEAT_PAE_PGDIR_ABOVE_4GB;
                if self.state.kernel_root.is_none() {
                    return self.tell_features_of_memory(at, info);
                }
                self.copy_to_guest(at, &info)?;
                Ok(0)
            }
            VersionCommand::PageSize if at == 0 => Ok(PAGE_SIZE),
            VersionCommand::PageSize => Err(Errno::Inval.into()),
            VersionCommand::GuestHandle => {
                let handle = *self.domain.handle.lock();
                self.copy_to_guest(at, &handle)?;
                Ok(0)
            }
            VersionCommand::CommandLine => {
                let line = if is_privileged { self.hv.command_line.as_str() } else { "<denied>" };
                self.write_text::<{ abi::XEN_COMMANDLINE_LEN }>(at, line)
            }
            VersionCommand::BuildId if is_privileged => self.write_build_id(at),
            VersionCommand::BuildId => Err(Errno::Perm.into()),
            VersionCommand::Version => Ok(VERSION),
        }
    }

    /// By what this very image is known: how many bytes there is room for stands before them. A null pointer asks how
    /// many there are.
    fn write_build_id(&self, at: u64) -> Reply {
        let id = self.hv.build_id;
        let room = if at == 0 { u32::MAX } else { self.copy_from_guest(at)? };
        if room == 0 {
            return Err(Errno::Inval.into());
        }
        if id.is_empty() {
            return Err(Errno::NoData.into());
        }
        if at != 0 {
            if index(room) < id.len() {
                return Err(Errno::NoBufs.into());
            }
            let place = at.checked_add(bytes::<u32>()).ok_or(Errno::Fault)?;
            GuestPtr::<u8>::new(place, long(id.len()))?.write_many(self.hv.machine(), 0, id)?;
        }
        Ok(long(id.len()))
    }

    fn write_text<const N: usize>(&self, at: u64, value: &str) -> Reply {
        self.copy_to_guest(at, &text::<N>(value))?;
        Ok(0)
    }
}

/// Text in a field of the ABI: as much as fits, a zero at the end.
fn text<const N: usize>(value: &str) -> [u8; N] {
    let mut field = [0; N];
    for (place, byte) in field.iter_mut().take(N.saturating_sub(1)).zip(value.bytes()) {
        *place = byte;
    }
    field
}
