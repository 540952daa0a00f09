//! Temporary.
use oxen_tools::{build, workspace::Workspace};
fn main() {
    let w = Workspace::open().unwrap();
    for what in std::env::args().skip(1) {
        match what.as_str() {
            "hv" => build::hypervisor(&w).unwrap(),
            "dom0" => build::dom0(&w).unwrap(),
            "probe" => build::probe(&w).unwrap(),
            "ramdisk" => build::ramdisk(&w).unwrap(),
            _ => panic!(),
        }
    }
}
