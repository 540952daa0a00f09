//! Puts this folder on the linker's search path, so that a guest is laid out by `-Tguest.ld` wherever this crate lies.

fn main() {
    println!("cargo:rerun-if-changed=guest.ld");
    // The cargo that runs this has always set it.
    println!("cargo:rustc-link-search={}", std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
}
