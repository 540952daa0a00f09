//! Interrupt lines. Devices share them: whoever is served must have taken its interrupt back before the line ends.

use alloc::{collections::BTreeMap, rc::Rc, vec::Vec};
use core::cell::RefCell;

use oxen_domu_lib::event::Port;
use oxen_domu_lib::{control, println, task};

use super::OWNER;

/// Something that raises a line.
pub trait Source {
    /// Takes the interrupt back where it is this device's, and wakes who waits for it.
    fn serve(&self);
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
    /// Connects a device with its line for good; says whether its interrupts will arrive.
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
