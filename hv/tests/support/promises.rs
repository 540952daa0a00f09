//! What the types promise: who cannot make a right, what stays on its CPU, what cannot be doubled.

use super::Fake;
use oxen_hv::{
    caller::{Caller, Current},
    domain::vcpu::VcpuState,
    mem::editor::Editor,
    reply::Control,
};
use static_assertions::{assert_impl_all, assert_not_impl_any};

// A right to act on others comes from the check of a caller alone.
assert_not_impl_any!(Control: Default, zerocopy::FromBytes, From<()>);
// Who edits a domain's tables holds its lock, on this CPU.
assert_not_impl_any!(Editor<'static, Fake>: Clone, Send);
// The registers of a vcpu are in one place: its own, or the CPU's on which it runs.
assert_not_impl_any!(VcpuState: Clone);
assert_not_impl_any!(Current: Clone);
assert_not_impl_any!(Caller<'static, Fake>: Clone);
// What all CPUs share.
assert_impl_all!(oxen_hv::Hypervisor<Fake>: Send, Sync);
assert_impl_all!(oxen_hv::domain::Domain: Send, Sync);
