//! The target that `OXEN_FUZZ_TARGET` names, under libFuzzer.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oxen_fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("OXEN_FUZZ_TARGET").unwrap_or_default();
    oxen_fuzz::find(&name).unwrap_or_else(|| panic!("OXEN_FUZZ_TARGET names no target: `{name}`"))
});

fuzz_target!(|input: &[u8]| (TARGET.run)(input));
