//! A split device in miniature, between two ordinary guests: a handshake over xenstore, a granted page, events both
//! ways.
//!
//! `peer=DOMID` names the other guest, `role=front` or `role=back` says which end this one is. The frontend grants a
//! page and leaves a port open; the backend maps the page and binds to the port. Then the frontend asks for the squares
//! of some numbers, one after the other. At the end both let go in the order that gives the page back.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::Display;
use core::sync::atomic::{AtomicU32, Ordering};

use oxen_domu_lib::abi::io::xenbus::XenbusState;
use oxen_domu_lib::event::Port;
use oxen_domu_lib::grant::{Access, Grant, GrantMapping, Words};
use oxen_domu_lib::handshake::{Side, Step, step};
use oxen_domu_lib::store::{Error, Store, Watch};
use oxen_domu_lib::{DomId, Errno, entry, println, start_info, task, time};

entry!(run);

/// How many questions the frontend asks.
const QUESTIONS: u32 = 100;
/// How long an answer may take, in nanoseconds.
const PATIENCE: u64 = 30 * time::SECOND;
/// Words of the shared page.
const QUESTION: usize = 0;
const ANSWER: usize = 1;

fn run() {
    if let Err(error) = task::run(pair()) {
        println!("pair: FAILED: {error}");
    }
}

async fn pair() -> Result<(), String> {
    let side = match start_info::option("role").as_deref() {
        Some("front") => Side::Frontend,
        Some("back") => Side::Backend,
        _ => return Err("role=front or role=back is missing".to_string()),
    };
    let peer = start_info::option("peer").and_then(|number| number.parse().ok()).ok_or("peer=DOMID is missing")?;
    let store = Store::connect().map_err(text)?;
    let own = store.read("domid").await.map_err(text)?;
    let watch = store.watch(&format!("/local/domain/{peer}/{NODES}/state")).await.map_err(text)?;
    let mut end = End { store, watch, own, peer: DomId(peer), state: XenbusState::Initialising, link: Link::None };
    end.publish(XenbusState::Initialising).await?;
    end.live(side).await
}

/// Where each end says what it has to say, below its own domain's nodes.
const NODES: &str = "data/pair";

/// What an end holds of the other.
enum Link {
    None,
    /// The frontend's: its page, its port.
    Granted(Grant, Port),
    /// The backend's: the frontend's page, its own end of the channel.
    Mapped(GrantMapping, Port),
}

struct End {
    store: Store,
    watch: Watch,
    own: String,
    peer: DomId,
    state: XenbusState,
    link: Link,
}

impl End {
    /// Follows the handshake from one state to the next until the other end is gone.
    async fn live(&mut self, side: Side) -> Result<(), String> {
        let mut answered = 0;
        // Whoever starts first waits for the other.
        while self.peers_state().await? == XenbusState::Unknown {
            self.changed().await?;
        }
        loop {
            match step(side, self.state, self.peers_state().await?) {
                Step::Wait => answered += self.serve_or_change().await?,
                Step::Offer(state) => {
                    if side == Side::Frontend {
                        self.offer().await?;
                    }
                    self.publish(state).await?;
                }
                Step::Connect => {
                    if side == Side::Backend {
                        self.accept().await?;
                    }
                    self.publish(XenbusState::Connected).await?;
                    println!("pair: connected");
                    if side == Side::Frontend {
                        self.ask().await?;
                        self.publish(XenbusState::Closing).await?;
                    }
                }
                // Nothing here changes while it is connected.
                Step::Reconfigure(state) => self.publish(state).await?,
                Step::Close(state) => {
                    // The backend unmaps before it says that it is closed, so that the frontend has its page back then.
                    if side == Side::Backend && core::mem::replace(&mut self.link, Link::None).is_some() {
                        println!("pair: answered {answered} questions");
                    }
                    self.publish(state).await?;
                }
                Step::Gone => return self.part(side).await,
            }
        }
    }

    /// The frontend's offer: a page and a port, by their numbers.
    async fn offer(&mut self) -> Result<(), String> {
        let grant = Grant::zeroed(self.peer, Access::ReadWrite).map_err(text)?;
        let port = Port::alloc_unbound(self.peer).map_err(text)?;
        self.say("ring-ref", &grant.reference().to_string()).await?;
        self.say("event-channel", &port.number().to_string()).await?;
        self.link = Link::Granted(grant, port);
        Ok(())
    }

    /// The backend takes what was offered. The numbers are a stranger's: the hypervisor refuses what is not for us.
    async fn accept(&mut self) -> Result<(), String> {
        let [reference, port] = [self.hear("ring-ref").await?, self.hear("event-channel").await?];
        let page = GrantMapping::map(self.peer, &[reference], Access::ReadWrite).map_err(text)?;
        let port = Port::bind_interdomain(self.peer, port).map_err(text)?;
        self.link = Link::Mapped(page, port);
        Ok(())
    }

    /// The frontend's questions. The other end may write anything into the page at any time: what is read is judged.
    async fn ask(&self) -> Result<(), String> {
        let Link::Granted(grant, port) = &self.link else { return Err("nothing was granted".to_string()) };
        for question in 1..=QUESTIONS {
            word(grant.page().words32(), QUESTION)?.store(question, Ordering::Release);
            port.notify();
            let answer = async {
                while word(grant.page().words32(), ANSWER)?.load(Ordering::Acquire) != question * question {
                    port.wait().await;
                }
                Ok::<_, String>(())
            };
            task::timeout(PATIENCE, answer).await.map_err(|_| format!("no square of {question}"))??;
        }
        println!("pair: has {QUESTIONS} answers");
        Ok(())
    }

    /// Waits for the other end's next state; a backend answers meanwhile. Returns how many questions it answered.
    async fn serve_or_change(&self) -> Result<u32, String> {
        let Link::Mapped(page, port) = &self.link else { return self.changed().await.map(|()| 0) };
        match task::select(self.changed(), port.wait()).await {
            task::Either::First(changed) => changed.map(|()| 0),
            task::Either::Second(()) => {
                // Read once: whatever it is changes between two looks if the other end likes.
                let question = word(page.words32(), QUESTION)?.load(Ordering::Acquire);
                let answer = word(page.words32(), ANSWER)?.swap(question.wrapping_mul(question), Ordering::AcqRel);
                port.notify();
                // Binding rings once without a question.
                Ok(u32::from(answer != question.wrapping_mul(question)))
            }
        }
    }

    /// The frontend has its page back and takes its nodes away, which tells the backend that it is gone.
    async fn part(&mut self, side: Side) -> Result<(), String> {
        if let Link::Granted(grant, _) = core::mem::replace(&mut self.link, Link::None) {
            grant.end().map_err(|_| "the page is still mapped".to_string())?;
            println!("pair: has its page back");
        }
        self.store.remove(NODES).await.map_err(text)?;
        println!("pair: done, as the {side:?}");
        Ok(())
    }

    async fn publish(&mut self, state: XenbusState) -> Result<(), String> {
        self.state = state;
        self.say("state", state.as_text()).await
    }

    /// Writes a node that the other end may read, value and permission at once.
    async fn say(&self, name: &str, value: &str) -> Result<(), String> {
        let path = format!("{NODES}/{name}");
        loop {
            let all = self.store.begin().await.map_err(text)?;
            all.write(&path, value).await.map_err(text)?;
            let readers = [format!("n{}", self.own), format!("r{}", self.peer.0)];
            all.set_permissions(&path, &readers.each_ref().map(String::as_str)).await.map_err(text)?;
            match all.commit().await {
                Err(Error::Refused(Errno::Again)) => {}
                done => return done.map_err(text),
            }
        }
    }

    /// A number that the other end wrote.
    async fn hear(&self, name: &str) -> Result<u32, String> {
        let number = self.store.read_number(&format!("/local/domain/{}/{NODES}/{name}", self.peer.0)).await;
        number.map_err(text)?.try_into().map_err(|_| format!("`{name}` of the other end is no number"))
    }

    /// The other end's state; unknown where it says none.
    async fn peers_state(&self) -> Result<XenbusState, String> {
        match self.store.read(&format!("/local/domain/{}/{NODES}/state", self.peer.0)).await {
            Ok(state) => Ok(XenbusState::from_text(&state)),
            Err(Error::Refused(_)) => Ok(XenbusState::Unknown),
            Err(error) => Err(text(error)),
        }
    }

    async fn changed(&self) -> Result<(), String> {
        self.watch.changed().await.map(|_| ()).ok_or("the store is gone".to_string())
    }
}

impl Link {
    const fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }
}

fn word(page: &[AtomicU32], index: usize) -> Result<&AtomicU32, String> {
    page.get(index).ok_or_else(|| "the page is too short".to_string())
}

fn text(error: impl Display) -> String {
    error.to_string()
}
