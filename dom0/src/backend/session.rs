//! What serves a connected frontend: how it is told to end, how it says that it has, how it is cut off.

use core::future::Future;

use oxen_domu_lib::sync::Latch;

/// What serves a connected frontend, in tasks of its own.
pub trait Session {
    /// What the next instance needs beside the rings to go on where this one stopped.
    type Legacy: Default;

    /// How it is told to end, and tells that it has.
    fn life(&self) -> &Life;

    /// Ends its tasks where they stand, and waits until nothing is at work for it any more.
    fn cut(&self) -> impl Future<Output = Self::Legacy>;
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// It was told to.
    Asked,
    /// The frontend broke the ring's protocol.
    ProtocolError,
}

/// The wish that a session ends, and the news that it has.
#[derive(Debug, Default)]
pub struct Life {
    stop: Latch<()>,
    end: Latch<SessionEnd>,
}

impl Life {
    /// Returns whether the session is to end.
    pub fn is_ending(&self) -> bool {
        self.stop.is_set()
    }

    /// Waits until the session is told to end.
    pub async fn told(&self) {
        self.stop.wait().await;
    }

    /// The session has ended.
    pub fn finish(&self, end: SessionEnd) {
        self.end.set(end);
    }

    /// Ends the session and waits until nothing of it is left at work.
    pub async fn close(&self) {
        self.stop.set(());
        self.ended().await;
    }

    /// Waits until the session has ended.
    pub async fn ended(&self) -> SessionEnd {
        self.end.wait().await
    }
}
