//! Interrupts of devices: by a message that is a device's own, or by a line that devices share: whoever is served must
//! have taken its interrupt back before the line ends.

use alloc::{collections::BTreeMap, rc::Rc, vec::Vec};
use core::cell::RefCell;

use oxen_domu_lib::event::Port;
use oxen_domu_lib::{control, println, task};

use super::OWNER;
use super::pci::{BUS, Function};

/// Something that raises a line.
pub trait Source {
    /// Takes the interrupt of a line back where it is this device's, and wakes who waits for it.
    fn serve(&self);

    /// Wakes who waits for the device's message, which takes itself back.
    fn wake(&self);
}

/// An interrupt that is one device's own.
pub struct Message {
    pirq: u32,
    port: Port,
}

impl Message {
    /// The message of an entry of a function's MSI-X table, which the hypervisor writes; `None` where it does not.
    pub fn bind(function: Function, entry: u16) -> Option<Self> {
        let pirq = control::map_message(BUS, function.place(), function.message_table()?, entry).ok()?;
        match Port::bind_pirq(pirq, false) {
            Ok(port) => Some(Self { pirq, port }),
            Err(_) => {
                let _ = control::unmap_interrupt(pirq);
                None
            }
        }
    }

    /// Connects it with its device for good.
    pub fn connect(self, source: Rc<dyn Source>) {
        task::spawn_for(OWNER, async move {
            loop {
                self.port.wait().await;
                source.wake();
            }
        });
    }

    /// Gives it back.
    pub fn give_back(self) {
        let Self { pirq, port } = self;
        drop(port);
        let _ = control::unmap_interrupt(pirq);
    }
}

/// The lines of this machine that are in use.
#[derive(Default)]
pub struct Lines {
    known: RefCell<BTreeMap<u32, Option<Rc<Line>>>>,
}

struct Line {
    pirq: u32,
    port: Port,
    sources: RefCell<Vec<Rc<dyn Source>>>,
}

impl Lines {
    /// Connects a device with its line for good; returns whether its interrupts will arrive.
    pub fn connect(&self, line: u32, source: Rc<dyn Source>) -> bool {
        let mut known = self.known.borrow_mut();
        let Some(line) = known.entry(line).or_insert_with(|| Line::bind(line)) else { return false };
        line.sources.borrow_mut().push(source);
        true
    }
}

impl Line {
    fn bind(line: u32) -> Option<Rc<Self>> {
        let bound = control::map_interrupt_line(line).and_then(|pirq| Ok((pirq, Port::bind_pirq(pirq, true)?)));
        match bound {
            Ok((pirq, port)) => {
                let line = Rc::new(Self { pirq, port, sources: RefCell::default() });
                task::spawn_for(OWNER, line.clone().run());
                Some(line)
            }
            Err(errno) => {
                println!("interrupt line {line} is polled: {}", errno.name());
                None
            }
        }
    }

    async fn run(self: Rc<Self>) {
        loop {
            self.port.wait().await;
            for source in self.sources.borrow().iter() {
                source.serve();
            }
            // It was ours to end; if it had ended by itself, nothing happens.
            let _ = control::end_of_interrupt(self.pirq);
        }
    }
}
