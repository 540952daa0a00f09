//! The machine's console: what is typed comes byte by byte, what is printed goes through the hypervisor.

use alloc::{collections::VecDeque, vec::Vec};
use core::cell::RefCell;

use oxen_abi::virq::VIRQ_CONSOLE;
use oxen_domu_lib::{console, event::Port, hypercall, time};

/// How often input is looked for where no event announces it, in nanoseconds.
const LOOK: u64 = 100 * time::MILLISECOND;

/// dom0's end of the console.
pub struct Terminal {
    event: Option<Port>,
    typed: RefCell<VecDeque<u8>>,
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Terminal {
    /// Asks to be told of input.
    pub fn new() -> Self {
        Self { event: Port::bind_virq(VIRQ_CONSOLE).ok(), typed: RefCell::default() }
    }

    /// The next byte that is typed.
    pub async fn byte(&self) -> u8 {
        loop {
            if let Some(byte) = self.typed.borrow_mut().pop_front() {
                return byte;
            }
            let mut piece = [0; 64];
            match hypercall::console_read(&mut piece) {
                Ok(count @ 1..) => self.typed.borrow_mut().extend(piece.iter().take(count)),
                _ => match &self.event {
                    Some(port) => port.wait().await,
                    None => time::sleep(LOOK).await,
                },
            }
        }
    }

    /// Shows bytes as they are.
    pub fn show(&self, bytes: &[u8]) {
        // Nobody could be told that the console does not work.
        let _ = hypercall::console_write(bytes);
    }

    /// Shows a guest's bytes: what could steer the terminal from outside the guest's lines stays in, but
    /// zero bytes, which some terminals count as blanks, go.
    pub fn show_guest(&self, bytes: &[u8]) {
        let shown: Vec<u8> = bytes.iter().copied().filter(|&b| b != 0).collect();
        self.show(&shown);
    }
}

/// Prints text that may end in the middle of a line.
pub fn print(text: &str) {
    console::print(format_args!("{text}"));
}
