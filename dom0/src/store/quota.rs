//! How much of the store one unprivileged domain may hold; the defaults are those of Xen's xenstored, but for the
//! nodes of a transaction, of which a private copy is kept.

/// The limits. dom0 has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes owned.
    pub nodes: usize,
    /// Bytes of one node: value, names of children, permissions.
    pub node_size: usize,
    /// Entries in one node's permissions.
    pub permissions: usize,
    /// Watches at a time.
    pub watches: usize,
    /// Transactions at a time.
    pub transactions: usize,
    /// Nodes that one transaction reads or writes.
    pub transaction_nodes: usize,
    /// Answers not yet taken off the ring before further requests wait.
    pub outstanding: usize,
    /// Bytes of a path.
    pub path: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            nodes: 1000,
            node_size: 2048,
            permissions: 5,
            watches: 128,
            transactions: 10,
            transaction_nodes: 256,
            outstanding: 20,
            path: 1024,
        }
    }
}

impl Limits {
    /// What binds dom0: nothing.
    pub const NONE: Self = Self {
        nodes: usize::MAX,
        node_size: usize::MAX,
        permissions: usize::MAX,
        watches: usize::MAX,
        transactions: usize::MAX,
        transaction_nodes: usize::MAX,
        outstanding: usize::MAX,
        path: usize::MAX,
    };
}
