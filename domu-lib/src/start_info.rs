//! What the domain builder says at the start of day.
//!
//! # Example
//!
//! ```no_run
//! use oxen_domu_lib::{println, start_info};
//!
//! // `xl create guest.cfg cmdline="rounds=3"`
//! let rounds: u32 = start_info::option("rounds").and_then(|text| text.parse().ok()).unwrap_or(1);
//! println!("{rounds} rounds in {} pages on {}", start_info::pages(), start_info::magic());
//! ```

use alloc::string::String;

use oxen_abi::start_info::{StartFlags, StartInfo};

use crate::pages::{Mfn, Pfn, layout};
use crate::raw::memory::view;

/// What the page says, or said when the domain was last restored: the page itself is written by toolstacks.
static INFO: spin::RwLock<Option<StartInfo>> = spin::RwLock::new(None);

/// Keeps what the start-of-day page says.
pub(crate) fn install(info: &StartInfo) {
    *INFO.write() = Some(*info);
}

fn with<T>(read: impl FnOnce(&StartInfo) -> T) -> Option<T> {
    INFO.read().as_ref().map(read)
}

fn has(flag: StartFlags) -> bool {
    with(|info| StartFlags::from_bits_retain(info.flags).contains(flag)).unwrap_or(false)
}

/// A page shared with a backend that the builder set up, and the event channel that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The page's frame.
    pub frame: Mfn,
    /// The local port.
    pub port: u32,
}

/// The primary console; `None` in dom0, whose console is the hypervisor's.
pub fn console() -> Option<Channel> {
    if is_initial_domain() {
        return None;
    }
    with(|info| Channel { frame: Mfn::new(info.console_mfn), port: info.console_evtchn })
        .filter(|ring| ring.frame.raw() != 0)
}

/// The ring to xenstored; `None` where there is none yet.
pub fn store() -> Option<Channel> {
    with(|info| Channel { frame: Mfn::new(info.store_mfn), port: info.store_evtchn })
        .filter(|ring| ring.frame.raw() != 0)
}

/// The ports of store and console.
pub(crate) fn ports() -> [u32; 2] {
    with(|info| [info.store_evtchn, info.console_evtchn]).unwrap_or_default()
}

/// The frames of the rings above.
pub(crate) fn ring_frames() -> impl Iterator<Item = Mfn> {
    [console(), store()].into_iter().flatten().map(|ring| ring.frame)
}

/// Whether this is dom0: the domain that the hypervisor started first.
pub fn is_initial_domain() -> bool {
    has(StartFlags::INITDOMAIN)
}

/// Whether the domain may use the control calls.
pub fn is_privileged() -> bool {
    has(StartFlags::PRIVILEGED)
}

/// Whether the module is named by its first page instead of by its address.
pub(crate) fn module_is_pfn() -> bool {
    has(StartFlags::MOD_START_PFN)
}

/// Pages that the domain was built with.
pub fn pages() -> u64 {
    with(|info| info.nr_pages).unwrap_or(0)
}

/// The ABI string of the hypervisor, such as `xen-3.0-x86_64`.
pub fn magic() -> String {
    with(|info| text(&info.magic)).unwrap_or_default()
}

/// The command line.
pub fn command_line() -> String {
    with(|info| text(&info.cmd_line)).unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).trim().into()
}

/// The value of `key=value` on the command line, or an empty string for a lone `key`.
pub fn option(key: &str) -> Option<String> {
    command_line().split_whitespace().find_map(|word| match word.split_once('=') {
        Some((name, value)) if name == key => Some(value.into()),
        None if word == key => Some(String::new()),
        _ => None,
    })
}

/// The module (ramdisk) that came with the kernel, as bytes that stay for good.
pub fn module() -> Option<&'static [u8]> {
    let (start, length) = with(|info| (info.mod_start, info.mod_len)).filter(|&(_, length)| length != 0)?;
    let address = if module_is_pfn() { layout::address(Pfn::new(start)) } else { start };
    Some(view::module(address, usize::try_from(length).ok()?))
}
