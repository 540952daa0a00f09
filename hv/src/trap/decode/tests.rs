//! Instructions as they are written down, and what they are taken for.

use super::*;

fn regs() -> Regs {
    Regs { rip: 0x1000, rax: 0xa0, rbx: 0xb0, rdx: 0xd0, rsi: 0x51, rbp: 0xbb, r12: 0x12, ..Regs::default() }
}

fn check(code: &[u8], operation: Operation) {
    let mut padded = code.to_vec();
    padded.extend([0xcc; 8]);
    assert_eq!(decode(&padded, &regs()), Some(Instruction { length: code.len() as u8, operation }), "{code:x?}");
    for short in 0..code.len() {
        assert_eq!(decode(&code[..short], &regs()), None, "{code:x?} cut to {short}");
    }
}

#[test]
fn the_page_table_writes_of_linux_are_known() {
    let exchange = |value, register| Operation::Write { bytes: 8, change: Change::Exchange { value, register } };
    check(&[0x48, 0x87, 0x10], exchange(0xd0, 2));
    check(&[0x48, 0x87, 0x1a], exchange(0xb0, 3));
    check(&[0x48, 0x87, 0x75, 0x00], exchange(0x51, 6));
    let clear_bit_1 = Operation::Write { bytes: 1, change: Change::Combine(Logic::And, 0xfd) };
    check(&[0x3e, 0x41, 0x80, 0x24, 0x24, 0xfd], clear_bit_1);
    check(&[0xf0, 0x41, 0x80, 0x24, 0x24, 0xfd], clear_bit_1);
    check(&[0x48, 0x89, 0x2b], Operation::Write { bytes: 8, change: Change::Store(0xbb) });
}

#[test]
fn privileged_instructions_are_known() {
    check(&[0xfa], Operation::Cli);
    check(&[0xe4, 0x42], Operation::PortIn { port: Port::Immediate(0x42), bytes: 1 });
    check(&[0x66, 0xef], Operation::PortOut { port: Port::Dx, bytes: 2 });
    check(&[0xed], Operation::PortIn { port: Port::Dx, bytes: 4 });
    let string = StringPort { is_input: true, bytes: 1, is_repeated: false, is_narrow: false, segment: None };
    check(&[0x6c], Operation::String(string));
    check(&[0xf3, 0x6d], Operation::String(StringPort { bytes: 4, is_repeated: true, ..string }));
    check(&[0x48, 0x6d], Operation::String(StringPort { bytes: 4, ..string }));
    let output = StringPort { is_input: false, bytes: 2, segment: Some(Segment::Gs), ..string };
    check(&[0x65, 0x66, 0x6f], Operation::String(output));
    check(&[0x67, 0x65, 0x66, 0x6f], Operation::String(StringPort { is_narrow: true, ..output }));
    check(&[0x0f, 0x32], Operation::ReadMsr);
    check(&[0x0f, 0x20, 0xe0], Operation::ReadControl { control: 4, register: 0 });
    check(&[0x41, 0x0f, 0x22, 0xdc], Operation::WriteControl { control: 3, register: 12 });
    check(&[0x0f, 0x21, 0x7c], Operation::ReadDebug { debug: 7, register: 4 });
    check(&[0x0f, 0x22, 0x05], Operation::WriteControl { control: 0, register: 5 });
    check(&[0xcd, 0x80], Operation::Interrupt { vector: 0x80 });
    check(&[0x0f, 0x01, 0xd1], Operation::Xsetbv);
    check(&[0x0f, 0x01, 0xf9], Operation::Rdtscp);
}

#[test]
fn every_form_of_an_operand_in_memory_has_its_length() {
    let store = Operation::Write { bytes: 4, change: Change::Store(0xd0) };
    for code in [
        &[0x89, 0x10][..],
        &[0x41, 0x89, 0x54, 0x24, 0xf0],
        &[0x89, 0x54, 0x95, 0x08],
        &[0x89, 0x14, 0x25, 0, 0, 0, 0x80],
        &[0x89, 0x15, 1, 0, 0, 0],
        &[0x89, 0x90, 1, 2, 3, 4],
        &[0x89, 0x94, 0x25, 1, 2, 3, 4],
    ] {
        check(code, store);
    }
}

#[test]
fn anything_else_is_not() {
    for code in [&[0x90][..], &[0x0f, 0x0b], &[0x48, 0x87, 0xc0], &[0x0f, 0x01, 0x38], &[0xff; 15], &[0x66; 20]] {
        assert_eq!(decode(code, &regs()), None, "{code:x?}");
    }
}
