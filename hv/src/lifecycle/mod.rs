//! The life of a domain: made (`create`), given its vcpus' state
//! ([`context`]), paused and let go, shut down by itself or by a fault (`shutdown`), and torn down by the
//! toolstack ([`teardown`]).

pub mod context;
mod create;
pub mod info;
mod shutdown;
pub mod teardown;
