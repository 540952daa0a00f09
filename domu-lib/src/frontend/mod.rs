//! Frontends of split devices: what they share, which is their place in the store and the handshake.
//!
//! # Example
//!
//! ```no_run
//! use oxen_domu_lib::frontend::{balloon, block::Block, control};
//! use oxen_domu_lib::store::Store;
//! use oxen_domu_lib::{println, task};
//!
//! task::run(async {
//!     let Ok(store) = Store::connect() else { return };
//!     task::spawn(control::obey(store.clone()));
//!     task::spawn(balloon::follow(store.clone()));
//!     match Block::connect(&store, "51712").await {
//!         Ok(disk) => println!("{:?}", disk.geometry()),
//!         Err(error) => println!("no disk: {error}"),
//!     }
//! });
//! ```

pub mod balloon;
pub mod block;

pub mod control;
pub mod net;

use alloc::format;
use alloc::string::String;

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::io::xenbus::XenbusState;

use crate::grant::GrantError;
use crate::handshake;
use crate::store::{Error, Store, Watch};
use crate::suspend;
use crate::task::{self, Either, Elapsed, select};
use crate::time;

/// How long a backend may take to connect, in nanoseconds: as long as Linux's frontends wait for theirs.
pub const PATIENCE: u64 = 300 * time::SECOND;

/// Why a frontend could not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The store said no.
    Store(Error),
    /// The hypervisor said no.
    Hypervisor(Errno),
    /// No grant could be made.
    Grant(GrantError),
    /// The backend closed, or went away.
    Closed,
    /// The backend does not offer what there is no way without.
    Lacks(&'static str),
    /// What the backend says of this cannot be.
    Nonsense(&'static str),
    /// The backend has not got to its end of the handshake in [`PATIENCE`].
    Silent,
}

impl core::error::Error for ConnectError {}

impl core::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Hypervisor(errno) => write!(f, "hypervisor: {errno}"),
            Self::Grant(error) => error.fmt(f),
            Self::Closed => f.write_str("the backend closed"),
            Self::Nonsense(what) => write!(f, "what the backend says of its {what} cannot be"),
            Self::Silent => f.write_str("the backend does not connect"),
            Self::Lacks(feature) => write!(f, "the backend does not offer {feature}"),
        }
    }
}

impl From<Error> for ConnectError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<Errno> for ConnectError {
    fn from(errno: Errno) -> Self {
        Self::Hypervisor(errno)
    }
}

impl From<GrantError> for ConnectError {
    fn from(error: GrantError) -> Self {
        Self::Grant(error)
    }
}

/// Opens a device in the domain that this guest has become, however often it becomes another one meanwhile.
async fn reopen(device: &Device) -> Result<Device, ConnectError> {
    loop {
        let restores = suspend::restores();
        let opened = device.reopen().await;
        if opened.is_ok() || suspend::restores() == restores {
            return opened;
        }
    }
}

/// A device as its frontend sees it in the store.
#[derive(Debug)]
pub struct Device {
    store: Store,
    path: String,
    backend_path: String,
    backend: DomId,
    state: XenbusState,
    watch: Watch,
    /// When the backend has to be connected.
    deadline: u64,
    /// How often the guest had been restored when the device was opened.
    restores: u64,
}

impl Device {
    /// The device `device/CLASS/ID` of this domain.
    ///
    /// # Errors
    /// `ENOENT` where there is none.
    pub async fn open(store: &Store, class: &str, id: &str) -> Result<Self, ConnectError> {
        Self::open_at(store, format!("device/{class}/{id}")).await
    }

    /// The same device of the domain that this guest has become.
    async fn reopen(&self) -> Result<Self, ConnectError> {
        Self::open_at(&self.store, self.path.clone()).await
    }

    async fn open_at(store: &Store, path: String) -> Result<Self, ConnectError> {
        let restores = suspend::restores();
        let backend_path = store.read(&format!("{path}/backend")).await?;
        let backend = store.read_number(&format!("{path}/backend-id")).await?;
        let backend = DomId(u16::try_from(backend).map_err(|_| Errno::Inval)?);
        let state = XenbusState::from_text(&store.read(&format!("{path}/state")).await?);
        let watch = store.watch(&format!("{backend_path}/state")).await?;
        let deadline = time::now().saturating_add(PATIENCE);
        let mut device = Self { store: store.clone(), path, backend_path, backend, state, watch, deadline, restores };
        if state != XenbusState::Initialising {
            // An earlier frontend of this domain has left the device: start anew.
            device.publish(&[], XenbusState::Initialising).await?;
        }
        Ok(device)
    }

    /// Whether the guest has been restored since this was opened: then nobody is at the other end any more.
    pub fn is_gone(&self) -> bool {
        suspend::restores() != self.restores
    }

    /// The domain that serves the device.
    pub const fn backend(&self) -> DomId {
        self.backend
    }

    /// What the frontend published last.
    pub const fn state(&self) -> XenbusState {
        self.state
    }

    /// A value that the toolstack wrote for the frontend.
    ///
    /// # Errors
    /// The store's.
    pub async fn setting(&self, key: &str) -> Result<String, Error> {
        self.store.read(&format!("{}/{key}", self.path)).await
    }

    /// A value that the backend wrote.
    ///
    /// # Errors
    /// The store's.
    pub async fn read(&self, key: &str) -> Result<String, Error> {
        self.store.read(&format!("{}/{key}", self.backend_path)).await
    }

    /// A number that the backend wrote, or `default`: backends leave out what they do not offer.
    pub async fn read_number_or(&self, key: &str, default: u64) -> u64 {
        self.store.read_number(&format!("{}/{key}", self.backend_path)).await.unwrap_or(default)
    }

    /// Publishes values and then a state, all at once.
    ///
    /// # Errors
    /// The store's.
    pub async fn publish(&mut self, values: &[(&str, &str)], state: XenbusState) -> Result<(), Error> {
        loop {
            let transaction = self.store.begin().await?;
            for (key, value) in values {
                transaction.write(&format!("{}/{key}", self.path), value).await?;
            }
            match transaction.commit().await {
                Ok(()) => break,
                // Others wrote meanwhile: the same again.
                Err(Error::Refused(Errno::Again)) => {}
                Err(error) => return Err(error),
            }
        }
        // Outside the transaction, so that the backend's watch finds the values there.
        self.store.write(&format!("{}/state", self.path), state.as_text()).await?;
        self.state = state;
        Ok(())
    }

    /// The backend's state; `Unknown` for a backend that is not there.
    ///
    /// # Errors
    /// The store's.
    pub async fn peer(&self) -> Result<XenbusState, Error> {
        match self.read("state").await {
            Ok(text) => Ok(XenbusState::from_text(&text)),
            Err(Error::Refused(Errno::NoEnt | Errno::Acces)) => Ok(XenbusState::Unknown),
            Err(error) => Err(error),
        }
    }

    /// What this end does now.
    ///
    /// # Errors
    /// The store's, but for a backend that is not there.
    pub async fn step(&self) -> Result<handshake::Step, Error> {
        Ok(handshake::step(handshake::Side::Frontend, self.state, self.peer().await?))
    }

    /// Waits until the backend's state changes, while it has time to connect.
    ///
    /// # Errors
    /// [`ConnectError::Silent`] when its time is over, and the store's.
    pub async fn answered(&self) -> Result<(), ConnectError> {
        let left = self.deadline.saturating_sub(time::now());
        task::timeout(left, self.changed()).await.map_err(|Elapsed| ConnectError::Silent)?.map_err(ConnectError::from)
    }

    /// Waits until the backend's state changes, or the guest has been restored.
    ///
    /// # Errors
    /// [`Error::Protocol`] when the store is gone.
    pub async fn changed(&self) -> Result<(), Error> {
        match select(suspend::restored(self.restores), self.watch.changed()).await {
            Either::First(()) => Ok(()),
            Either::Second(changed) => changed.map(|_| ()).ok_or(Error::Protocol),
        }
    }
}
