//! Guests that were created here, and those that are remembered.

use alloc::{collections::VecDeque, rc::Rc, vec::Vec};
use core::cell::{Cell, RefCell};

use oxen_abi::domid::DomId;
use oxen_domu_lib::sync::Latch;

use super::stage::{Duty, End, Stage};
use crate::backend::block::device::BlockDevice;
use crate::backend::console::GuestConsole;
use crate::backend::net::device::NetDevice;
use crate::balloon::{controller::Subject, policy::DEFAULT_SHARES};
use crate::config::{Action, GuestConfig};
use crate::purse::Log;

/// Ended guests whose console output is still shown.
const MAX_REMEMBERED: usize = 16;

/// A guest that was created here.
pub struct Guest {
    /// Its configuration. It may have another name by now: [`Self::name`].
    pub config: GuestConfig,
    name: RefCell<Rc<str>>,
    /// Its domain; changes when it restarts.
    pub domain: Cell<DomId>,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Its console.
    pub console: Rc<GuestConsole>,
    /// Its disks.
    pub disks: RefCell<Vec<Rc<BlockDevice>>>,
    /// Its network interfaces.
    pub vifs: RefCell<Vec<Rc<NetDevice>>>,
    /// What is said about it on dom0's console, whatever domain it is.
    pub log: Rc<Log>,
    /// The same about its ends, which what it caused before does not silence.
    pub end_log: Rc<Log>,
    /// KiB that it was built with at least.
    pub built: Cell<u64>,
    /// When it started, in nanoseconds of system time.
    pub started: Cell<u64>,
    stage: Cell<Stage>,
    /// How it ended, for those who wait for its end.
    ended: Latch<End>,
}

impl Guest {
    /// A guest without a domain.
    pub fn new(config: GuestConfig, uuid: [u8; 16]) -> Self {
        Self {
            name: RefCell::new(config.name.as_str().into()),
            config,
            domain: Cell::new(DomId(0)),
            uuid,
            console: Rc::default(),
            disks: RefCell::default(),
            vifs: RefCell::default(),
            log: Log::of_guest(),
            end_log: Log::of_guest(),
            built: Cell::new(0),
            started: Cell::new(0),
            stage: Cell::default(),
            ended: Latch::new(),
        }
    }

    /// What it is called.
    pub fn name(&self) -> Rc<str> {
        self.name.borrow().clone()
    }

    /// Calls it so from now on; the store has to be told besides.
    pub(super) fn set_name(&self, name: &str) {
        *self.name.borrow_mut() = name.into();
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// How it ended, when it has and does not start again. One that is preserved has ended.
    pub fn end(&self) -> Option<End> {
        self.ended.get()
    }

    /// Waits until the guest has ended for good.
    pub async fn wait(&self) -> End {
        self.ended.wait().await
    }

    /// See [`Stage::end_noticed`].
    pub(super) fn notice_end(&self, end: End, action: Action) -> Duty {
        let (stage, duty) = self.stage.get().end_noticed(end, action);
        self.enter(stage);
        duty
    }

    /// See [`Stage::destroyed`].
    pub(super) fn destroy(&self) -> Duty {
        let (stage, duty) = self.stage.get().destroyed();
        self.enter(stage);
        duty
    }

    /// See [`Stage::saving`]; returns whether it is now.
    pub(super) fn begins_to_be_saved(&self) -> bool {
        let next = self.stage.get().saving();
        next.is_some_and(|stage| {
            self.enter(stage);
            true
        })
    }

    /// See [`Stage::not_saved`].
    pub(super) fn is_no_longer_saved(&self) {
        self.enter(self.stage.get().not_saved());
    }

    /// See [`Stage::saved`].
    pub(super) fn was_saved(&self, end: End) -> Duty {
        let (stage, duty) = self.stage.get().saved(end);
        self.enter(stage);
        duty
    }

    /// See [`Stage::restarted`].
    pub(super) fn runs_again(&self) {
        self.enter(self.stage.get().restarted());
    }

    /// See [`Stage::gone`].
    fn is_gone(&self) {
        self.enter(self.stage.get().gone());
    }

    fn enter(&self, stage: Stage) {
        self.stage.set(stage);
        if let Some(end) = stage.end() {
            self.ended.set(end);
        }
    }

    /// What the balloon's controller knows of it.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            domain: self.domain.get(),
            name: self.name(),
            maximum: self.config.maxmem << 10,
            built: self.built.get(),
            shares: self.config.balloon_shares.unwrap_or(DEFAULT_SHARES),
            log: &self.log,
        }
    }
}

/// All guests that were created here.
#[derive(Default)]
pub struct Guests {
    alive: RefCell<Vec<Rc<Guest>>>,
    gone: RefCell<VecDeque<Rc<Guest>>>,
}

impl Guests {
    /// Those that have a domain.
    pub fn alive(&self) -> Vec<Rc<Guest>> {
        self.alive.borrow().clone()
    }

    /// The one of this name or domain number.
    pub fn find(&self, name: &str) -> Option<Rc<Guest>> {
        let number = name.parse().ok();
        let same = |guest: &&Rc<Guest>| *guest.name() == *name || Some(guest.domain.get().0) == number;
        self.alive.borrow().iter().find(same).cloned()
    }

    /// The last one of this name that has ended.
    pub fn find_gone(&self, name: &str) -> Option<Rc<Guest>> {
        self.gone.borrow().iter().find(|guest| *guest.name() == *name).cloned()
    }

    /// Adds one that has a domain.
    pub(super) fn add(&self, guest: Rc<Guest>) {
        self.alive.borrow_mut().push(guest);
    }

    /// Nothing is left of a guest, or it did not start again: it is remembered for a while.
    pub(super) fn retire(&self, guest: &Rc<Guest>) {
        self.alive.borrow_mut().retain(|other| !Rc::ptr_eq(other, guest));
        let mut gone = self.gone.borrow_mut();
        gone.push_front(guest.clone());
        gone.truncate(MAX_REMEMBERED);
        guest.is_gone();
        guest.console.close_listeners();
    }
}
