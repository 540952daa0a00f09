//! Requests as they come over a ring: one match over the message types, answers in wire form.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use oxen_abi::io::xs_wire as xs;
use oxen_domu_lib::memory::Mfn;

use super::{
    DomId, Store,
    access::Permissions,
    path::Path,
    tree::Node,
    wire::{Arguments, Error, Message, PAYLOAD_MAX, terminated},
};

/// What dom0 must do besides answering, since it needs the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Map this domain's ring and serve it.
    Serve {
        /// Whose ring.
        domain: DomId,
        /// The ring's frame, in the guest's own numbering.
        gfn: Mfn,
        /// The event channel port that the domain allocated.
        port: u32,
    },
    /// Stop serving this domain's ring.
    Forget(DomId),
}

/// An answer, and perhaps something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Goes back to the requester.
    pub reply: Message,
    /// For the server.
    pub effect: Option<Effect>,
}

type Answer = Result<Vec<u8>, Error>;

impl Store {
    /// Carries out one request of `domain`. Events that it causes wait in [`Store::take_events`].
    pub fn request(&mut self, domain: DomId, message: &Message) -> Outcome {
        let mut effect = None;
        let answer = match message.kind {
            xs::XS_CONTROL | xs::XS_INTRODUCE | xs::XS_RELEASE | xs::XS_RESUME | xs::XS_SET_TARGET => {
                self.privileged_request(domain, message, &mut effect)
            }
            _ => self.common_request(domain, message),
        };
        let reply = match answer {
            Ok(payload) if payload.len() > PAYLOAD_MAX => message.refuse(Error::TooBig),
            Ok(payload) => message.reply(payload),
            Err(error) => message.refuse(error),
        };
        Outcome { reply, effect }
    }

    fn common_request(&mut self, domain: DomId, message: &Message) -> Answer {
        let (tx, mut args) = (message.transaction, Arguments::new(&message.payload));
        match message.kind {
            xs::XS_DIRECTORY => {
                let path = self.resolve(args.text()?, domain)?;
                Ok(listing(&*self.read(domain, tx, &path)?))
            }
            xs::XS_DIRECTORY_PART => {
                let path = self.resolve(args.text()?, domain)?;
                listing_part(&*self.read(domain, tx, &path)?, args.number()?)
            }
            xs::XS_READ => {
                let path = self.resolve(args.text()?, domain)?;
                Ok(self.read(domain, tx, &path)?.value.clone())
            }
            xs::XS_GET_PERMS => {
                let path = self.resolve(args.text()?, domain)?;
                Ok(self.read(domain, tx, &path)?.permissions.encode())
            }
            xs::XS_WRITE => {
                let path = self.resolve(args.text()?, domain)?;
                done(self.write(domain, tx, &path, args.rest()))
            }
            xs::XS_MKDIR => {
                let path = self.resolve(args.text()?, domain)?;
                done(self.make(domain, tx, &path))
            }
            xs::XS_RM => {
                let path = self.resolve(args.text()?, domain)?;
                done(self.remove(domain, tx, &path))
            }
            xs::XS_SET_PERMS => {
                let path = self.resolve(args.text()?, domain)?;
                let permissions = parse_permissions(args)?;
                done(self.set_permissions(domain, tx, &path, permissions))
            }
            xs::XS_WATCH => done(self.watch(domain, args.text()?, args.bytes()?)),
            xs::XS_UNWATCH => done(self.unwatch(domain, args.text()?, args.bytes()?)),
            xs::XS_RESET_WATCHES => {
                self.reset(domain);
                done(Ok(()))
            }
            xs::XS_TRANSACTION_START if tx != 0 => Err(Error::Busy),
            xs::XS_TRANSACTION_START => Ok(terminated(self.start_transaction(domain)?.to_string())),
            xs::XS_TRANSACTION_END => match args.bytes()? {
                b"T" => done(self.end_transaction(domain, tx, true)),
                b"F" => done(self.end_transaction(domain, tx, false)),
                _ => Err(Error::Invalid),
            },
            xs::XS_GET_DOMAIN_PATH => Ok(terminated(Path::home(args.number()?).to_string())),
            xs::XS_IS_DOMAIN_INTRODUCED => {
                let known = self.is_introduced(args.number()?);
                Ok(terminated(if known { "T" } else { "F" }))
            }
            _ => Err(Error::NotSupported),
        }
    }

    /// What only dom0 may ask.
    fn privileged_request(&mut self, domain: DomId, message: &Message, effect: &mut Option<Effect>) -> Answer {
        if domain != 0 {
            return Err(Error::Access);
        }
        let mut args = Arguments::new(&message.payload);
        match message.kind {
            xs::XS_INTRODUCE => {
                let (domain, gfn, port) = (args.number()?, Mfn::new(args.number()?), args.number()?);
                self.introduce(domain);
                *effect = Some(Effect::Serve { domain, gfn, port });
                done(Ok(()))
            }
            xs::XS_RELEASE => {
                let domain = args.number()?;
                *effect = Some(Effect::Forget(domain));
                done(self.release(domain))
            }
            xs::XS_RESUME => {
                let known = self.is_introduced(args.number()?);
                done(if known { Ok(()) } else { Err(Error::NotFound) })
            }
            xs::XS_SET_TARGET => done(self.set_target(args.number()?, args.number()?)),
            _ => self.control(args),
        }
    }

    /// `XS_CONTROL`: what an administrator may ask the store about itself.
    fn control(&mut self, mut args: Arguments<'_>) -> Answer {
        let text = match args.text()? {
            "help" => String::from("Supported commands:\ncheck\nhelp\nprint\nquota\n"),
            "check" => match self.tree.audit() {
                Ok(()) => String::from("OK\n"),
                Err(path) => format!("inconsistent at {path}\n"),
            },
            "print" => format!("{} nodes, {} transactions\n", self.tree.iter().count(), self.transactions.len()),
            "quota" => format!("{:#?}\n", self.limits),
            _ => return Err(Error::Invalid),
        };
        Ok(terminated(text))
    }
}

fn done(result: Result<(), Error>) -> Answer {
    result.map(|()| terminated("OK"))
}

/// Names of children, each with its NUL.
fn listing(node: &Node) -> Vec<u8> {
    let mut out = Vec::new();
    for name in &node.children {
        out.extend_from_slice(name.as_bytes());
        out.push(0);
    }
    out
}

/// The listing from byte `offset` on, as many whole names as fit behind the node's generation;
/// one more NUL says that these were the last.
fn listing_part(node: &Node, offset: usize) -> Answer {
    let whole = listing(node);
    let rest = whole.get(offset..).ok_or(Error::Invalid)?;
    let mut out = terminated(node.generation.to_string());
    let room = PAYLOAD_MAX.saturating_sub(out.len() + 1);
    if rest.len() <= room {
        out.extend_from_slice(rest);
        out.push(0);
        return Ok(out);
    }
    let fits = rest.iter().take(room).rposition(|&b| b == 0).map_or(0, |at| at + 1);
    out.extend_from_slice(rest.get(..fits).unwrap_or_default());
    Ok(out)
}

fn parse_permissions(mut args: Arguments<'_>) -> Result<Permissions, Error> {
    let mut entries = Vec::new();
    while !args.is_empty() {
        entries.push(args.text()?);
    }
    Permissions::parse(entries.into_iter())
}
