//! Compares this crate with Xen's own C headers: every size, offset and number, as a C compiler sees them.
//!
//! A C program is made from the tables in this directory, compiled, run, and its answers compared with Rust's. Where
//! the headers (Debian's `libxen-dev`) or a C compiler are missing the test says so and ends.

mod calls;
mod devices;
mod domctl;
mod machine;
mod state;
mod trace;

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::hypercall::Hypercall;
use oxen_abi::io::protocols;
use oxen_abi::io::ring::{SringHeader, ring_size};
use oxen_abi::io::xenbus::XenbusState;
use oxen_abi::io::xs_wire::XSD_ERRORS;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Where Debian puts the headers.
const HEADERS: &str = "/usr/include/xen";

/// What the C program includes. Control interfaces are shown to tools only.
const PROLOGUE: &str = "
#define __XEN_TOOLS__ 1
#define XEN_ERRNO(name, value) XEN_##name = value,
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <xen/xen.h>
enum xen_errno {
#define __XEN__ 1
#include <xen/errno.h>
#undef __XEN__
};
#include <xen/callback.h>
#include <xen/domctl.h>
#include <xen/elfnote.h>
#include <xen/event_channel.h>
#include <xen/features.h>
#include <xen/grant_table.h>
#include <xen/hvm/e820.h>
#include <xen/memory.h>
#include <xen/nmi.h>
#include <xen/physdev.h>
#include <xen/platform.h>
#include <xen/sched.h>
#include <xen/sysctl.h>
#include <xen/trace.h>
#include <xen/vcpu.h>
#include <xen/version.h>
#include <xen/io/blkif.h>
#include <xen/io/console.h>
#include <xen/io/netif.h>
#include <xen/io/protocols.h>
#include <xen/io/ring.h>
#include <xen/io/xenbus.h>
#include <xen/io/xs_wire.h>
";

/// C expressions, each with what Rust says its value is.
#[derive(Default)]
pub(crate) struct List(Vec<(String, i128)>);

impl List {
    fn add(&mut self, expression: impl Into<String>, value: i128) {
        self.0.push((expression.into(), value));
    }

    fn text(&mut self, expression: &str, value: &str) {
        self.add(format!("strcmp({expression}, \"{value}\")"), 0);
    }
}

/// Bytes of the field a projection points at.
fn width<T, F>(_: impl Fn(&T) -> &F) -> i128 {
    size_of::<F>() as i128
}

/// `constants! { list, [module]; RUST_NAME = "C expression", … }`
macro_rules! constants {
    ($list:ident, $module:tt; $($name:ident = $c:literal),* $(,)?) => {
        $($list.add($c, $crate::item!($module $name) as i128);)*
    };
}

/// `structures! { list, [module]; RustName = "C type" { field, field: "C path" | padding } … }`
///
/// All fields must be named: one that is neither compared nor padding does not compile.
macro_rules! structures {
    ($list:ident, $module:tt; $($name:ident = $c:literal {
        $($field:ident $(: $c_field:literal)?),* $(| $($padding:ident),*)?
    })*) => {$({
        type T = $crate::item!(type $module $name);
        let _all = |T { $($field: _,)* $($($padding: _),*)? }: T| {};
        $list.add(concat!("sizeof(", $c, ")"), size_of::<T>() as i128);
        $({
            let path = $crate::c_path!($field $($c_field)?);
            $list.add(format!("offsetof({}, {path})", $c), std::mem::offset_of!(T, $field) as i128);
            $list.add(format!("sizeof((({} *)0)->{path})", $c), $crate::width(|whole: &T| &whole.$field));
        })*
    })*};
}

/// An item of a module given in brackets.
macro_rules! item {
    ([$($module:tt)*] $name:ident) => { $($module)*::$name };
    (type [$($module:tt)*] $name:ident) => { $($module)*::$name };
}

/// A field's name in C.
macro_rules! c_path {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $c:literal) => {
        $c
    };
}

pub(crate) use {c_path, constants, item, structures};

/// What no table says.
fn others(list: &mut List) {
    for &call in Hypercall::ALL {
        list.add(format!("__HYPERVISOR_{}", call.name()), call as i128);
    }
    for &error in Errno::ALL {
        list.add(format!("XEN_{}", error.name()), error as i128);
    }
    for (n, error) in XSD_ERRORS.iter().enumerate() {
        list.text(&format!("xsd_errors[{n}].errstring"), error.name());
        list.add(format!("xsd_errors[{n}].errnum"), *error as i128);
    }
    list.add("sizeof(xsd_errors) / sizeof(xsd_errors[0])", XSD_ERRORS.len() as i128);
    for (name, id) in [
        ("FIRST_RESERVED", DomId::FIRST_RESERVED),
        ("SELF", DomId::SELF),
        ("IO", DomId::IO),
        ("XEN", DomId::XEN),
        ("COW", DomId::COW),
        ("INVALID", DomId::INVALID),
        ("IDLE", DomId::IDLE),
    ] {
        list.add(format!("DOMID_{name}"), id.0.into());
    }
    for (name, state) in [
        ("Unknown", XenbusState::Unknown),
        ("Initialising", XenbusState::Initialising),
        ("InitWait", XenbusState::InitWait),
        ("Initialised", XenbusState::Initialised),
        ("Connected", XenbusState::Connected),
        ("Closing", XenbusState::Closing),
        ("Closed", XenbusState::Closed),
        ("Reconfiguring", XenbusState::Reconfiguring),
        ("Reconfigured", XenbusState::Reconfigured),
    ] {
        list.add(format!("XenbusState{name}"), state as i128);
    }
    list.text("XEN_IO_PROTO_ABI_X86_32", protocols::XEN_IO_PROTO_ABI_X86_32);
    list.text("XEN_IO_PROTO_ABI_X86_64", protocols::XEN_IO_PROTO_ABI_X86_64);
    list.text("XEN_IO_PROTO_ABI_ARM", protocols::XEN_IO_PROTO_ABI_ARM);
    list.text("XEN_IO_PROTO_ABI_NATIVE", protocols::XEN_IO_PROTO_ABI_NATIVE);
    rings(list);
}

/// The rings' header and sizes.
fn rings(list: &mut List) {
    for ring in ["blkif", "netif_tx", "netif_rx"] {
        let field = |name| format!("offsetof(struct {ring}_sring, {name})");
        list.add(field("ring"), size_of::<SringHeader>() as i128);
        list.add(field("req_prod"), std::mem::offset_of!(SringHeader, req_prod) as i128);
        list.add(field("req_event"), std::mem::offset_of!(SringHeader, req_event) as i128);
        list.add(field("rsp_prod"), std::mem::offset_of!(SringHeader, rsp_prod) as i128);
        list.add(field("rsp_event"), std::mem::offset_of!(SringHeader, rsp_event) as i128);
        list.add(field("pvt"), std::mem::offset_of!(SringHeader, pvt) as i128);
        for pages in [1, 2, 3, 4, 8, 16] {
            let entry = match ring {
                "blkif" => 112,
                "netif_tx" => 12,
                _ => 8,
            };
            let bytes = pages * 4096;
            list.add(format!("__CONST_RING_SIZE({ring}, {bytes})"), ring_size(bytes, entry).into());
        }
    }
}

/// The C program that prints each expression's value on a line of its own.
fn program(list: &List) -> String {
    let mut text = String::from(PROLOGUE);
    text.push_str("int main(void) {\n");
    for (expression, _) in &list.0 {
        text.push_str(&format!("    printf(\"%lld\\n\", (long long)({expression}));\n"));
    }
    text.push_str("    return 0;\n}\n");
    text
}

#[test]
fn every_layout_and_number_is_xens_own() {
    if !Path::new(HEADERS).join("domctl.h").exists() {
        println!("skipped: no headers in {HEADERS} (package libxen-dev)");
        return;
    }
    if Command::new("cc").arg("--version").output().is_err() {
        println!("skipped: no C compiler (cc)");
        return;
    }
    let mut list = List::default();
    calls::all(&mut list);
    trace::all(&mut list);
    state::all(&mut list);
    devices::all(&mut list);
    domctl::all(&mut list);
    machine::all(&mut list);
    others(&mut list);

    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, binary) = (directory.join("headers.c"), directory.join("headers"));
    std::fs::write(&source, program(&list)).unwrap();
    let compiler = Command::new("cc").args(["-std=gnu11", "-w", "-o"]).args([&binary, &source]).output().unwrap();
    assert!(compiler.status.success(), "{}", String::from_utf8_lossy(&compiler.stderr));
    let answers = Command::new(&binary).output().unwrap();
    assert!(answers.status.success());
    let answers = String::from_utf8(answers.stdout).unwrap();

    let answers: Vec<i64> = answers.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(answers.len(), list.0.len());
    assert!(list.0.len() > 1500, "the tables are not empty");
    let mut wrong = String::new();
    for ((expression, rust), c) in list.0.iter().zip(answers) {
        // Numbers of 64 bits are the same number whether C calls them signed or not.
        if *rust as i64 != c {
            writeln!(wrong, "{expression} is {c:#x}, not {rust:#x}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    println!("{} sizes, offsets and numbers compared", list.0.len());
}
