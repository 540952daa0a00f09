//! What the hypervisor tells of itself as a tree of files (`hypfs.h`).

/// The one version of the interface.
pub const XEN_HYPFS_VERSION: u32 = 1;
/// The longest path, its final zero included.
pub const XEN_HYPFS_MAX_PATHLEN: u32 = 1024;

abi_consts! {
    /// A command of `hypfs_op`.
    u32:
    /// The version of the interface, as the result.
    XEN_HYPFS_OP_GET_VERSION = 0,
    /// Read an entry: a [`HypfsDirentry`], and behind it what it holds.
    XEN_HYPFS_OP_READ = 1,
    /// Write what an entry holds.
    XEN_HYPFS_OP_WRITE_CONTENTS = 2,
}

abi_consts! {
    /// `type` of [`HypfsDirentry`].
    u8:
    XEN_HYPFS_TYPE_DIR = 0,
    XEN_HYPFS_TYPE_BLOB = 1,
    XEN_HYPFS_TYPE_STRING = 2,
    XEN_HYPFS_TYPE_UINT = 3,
    XEN_HYPFS_TYPE_INT = 4,
    XEN_HYPFS_TYPE_BOOL = 5,
}

abi_struct! {
    /// What an entry is (`xen_hypfs_direntry`). In a folder two bytes follow that say how far
    /// the next one is, and the name.
    pub struct HypfsDirentry [12] {
        /// `XEN_HYPFS_TYPE_*`.
        pub r#type: u8,
        /// How the contents are packed; 0: plainly.
        pub encoding: u8,
        /// Zero.
        pub pad: u16,
        /// Bytes that it has.
        pub content_len: u32,
        /// Bytes that can be written; 0: it is not for writing.
        pub max_write_len: u32,
    }
}
