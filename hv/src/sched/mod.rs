//! What scheduling keeps and decides, without anybody who is scheduled: run queues, deadlines, time, pools of CPUs.

pub mod clock;
pub mod deadlines;
pub mod pools;
pub mod run_queue;
pub mod runstate;
pub mod vcpu;
pub mod watch;
pub mod work;

pub use vcpu::VcpuSched;
