//! The end of a domain, in bounded steps: whatever it had is given back (law 7).

/// How far a domain's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It may run.
    Alive,
}
