//! The processor that a guest is shown: what CPUID answers, what is told of machine checks, registers, time stamps.

pub mod cpuid;
pub mod machine_check;
mod registers;
mod speculation;
mod tsc;
