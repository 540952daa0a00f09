//! The processor that a guest is shown: what CPUID answers, what is told of machine checks.

pub mod cpuid;
pub mod machine_check;
