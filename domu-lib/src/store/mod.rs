//! The store's client: requests and watches of many tasks over the one ring to xenstored.
//!
//! Each request carries an id and its task waits for the answer with that id; a task of this room's own takes what
//! comes out of the ring and hands it on. In a domain that was restored the watches are set again, each with an event
//! as when it was new, and nothing that was asked is lost.
//!
//! # Example
//!
//! ```
//! use oxen_domu_lib::println;
//! use oxen_domu_lib::store::{Error, Store};
//!
//! /// Counts up, however many do so at once, and says what others write.
//! async fn count(store: &Store) -> Result<(), Error> {
//!     let all = store.begin().await?;
//!     let count = all.read_number("data/count").await.unwrap_or(0);
//!     all.write("data/count", &(count + 1).to_string()).await?;
//!     all.commit().await?;
//!     let watch = store.watch("data").await?;
//!     while let Some(path) = watch.changed().await {
//!         println!("{path} has changed");
//!     }
//!     Ok(())
//! }
//! ```

mod client;
#[cfg(test)]
mod tests;
mod wire;

use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use oxen_abi::errno::Errno;
use oxen_abi::io::xs_wire as abi;

use crate::raw::memory::view;
use crate::sync::{Channel, Receiver};
use crate::{start_info, task};
pub(crate) use client::Quiet;
use client::{Answer, Client, Open, Watched};

/// Why a request was not answered as hoped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The store's own answer.
    Refused(Errno),
    /// The store broke the protocol, or there is none: nothing more will come.
    Protocol,
}

impl core::error::Error for Error {}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Refused(errno) => write!(f, "store: {errno}"),
            Self::Protocol => f.write_str("store: the connection is broken"),
        }
    }
}

/// A handle to the store; clones share the connection. Paths without a leading slash are below this domain's own.
#[derive(Clone)]
pub struct Store {
    client: Rc<Client>,
    transaction: u32,
}

impl core::fmt::Debug for Store {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Store").field("transaction", &self.transaction).finish_non_exhaustive()
    }
}

impl Store {
    /// Connects over the ring that the builder set up.
    ///
    /// # Errors
    /// [`Error::Protocol`] where there is none.
    pub fn connect() -> Result<Self, Error> {
        let channel = start_info::store().ok_or(Error::Protocol)?;
        let page = view::builders_page(channel.frame).ok_or(Error::Protocol)?;
        Ok(Self::on(page, channel.port))
    }

    /// Connects over the ring on `page`.
    fn on(page: &'static oxen_ring::Page, port: u32) -> Self {
        Self { client: Client::start(page, port), transaction: 0 }
    }

    /// Lets nothing new be asked until what this returns is dropped, but for what transactions ask that have begun, and
    /// waits until they have ended and everything is answered.
    pub(crate) async fn quiet(&self) -> Quiet {
        Client::quiet(&self.client).await
    }

    /// The value at `path`.
    ///
    /// # Errors
    /// `ENOENT` for none, `EACCES` for one that is not for us.
    pub async fn read(&self, path: &str) -> Result<String, Error> {
        let value = self.ask(abi::XS_READ, &[path.as_bytes(), b"\0"]).await?;
        Ok(String::from_utf8_lossy(&value).into())
    }

    /// The value at `path` as a number.
    ///
    /// # Errors
    /// As for [`Store::read`]; `EINVAL` for what is no number.
    pub async fn read_number(&self, path: &str) -> Result<u64, Error> {
        self.read(path).await?.trim().parse().map_err(|_| Error::Refused(Errno::Inval))
    }

    /// Writes `value` at `path`, making the nodes above.
    ///
    /// # Errors
    /// `EACCES`, or a quota's.
    pub async fn write(&self, path: &str, value: &str) -> Result<(), Error> {
        self.ask(abi::XS_WRITE, &[path.as_bytes(), b"\0", value.as_bytes()]).await.map(|_| ())
    }

    /// Makes an empty node where there is none.
    ///
    /// # Errors
    /// `EACCES`, or a quota's.
    pub async fn make(&self, path: &str) -> Result<(), Error> {
        self.ask(abi::XS_MKDIR, &[path.as_bytes(), b"\0"]).await.map(|_| ())
    }

    /// Removes a node and all below it.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`.
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        self.ask(abi::XS_RM, &[path.as_bytes(), b"\0"]).await.map(|_| ())
    }

    /// The names of the nodes below `path`.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`, `E2BIG` for more than fit in a message.
    pub async fn list(&self, path: &str) -> Result<Vec<String>, Error> {
        self.ask(abi::XS_DIRECTORY, &[path.as_bytes(), b"\0"]).await.map(|answer| wire::strings(&answer))
    }

    /// Who may do what at `path`: the owner first, such as `n0`, `r1`.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`.
    pub async fn permissions(&self, path: &str) -> Result<Vec<String>, Error> {
        self.ask(abi::XS_GET_PERMS, &[path.as_bytes(), b"\0"]).await.map(|answer| wire::strings(&answer))
    }

    /// Sets who may do what at `path`.
    ///
    /// # Errors
    /// `EACCES` for all but the owner.
    pub async fn set_permissions(&self, path: &str, permissions: &[&str]) -> Result<(), Error> {
        let mut parts: Vec<&[u8]> = [path.as_bytes(), b"\0"].into();
        for permission in permissions {
            parts.extend([permission.as_bytes(), b"\0"]);
        }
        self.ask(abi::XS_SET_PERMS, &parts).await.map(|_| ())
    }

    /// Watches `path` and all below it; the first event comes at once.
    ///
    /// # Errors
    /// A quota's.
    pub async fn watch(&self, path: &str) -> Result<Watch, Error> {
        let token = self.client.fresh().to_string();
        let (sender, receiver) = Channel::pair();
        self.client.watches.borrow_mut().insert(token.clone(), Watched { path: path.into(), sender });
        let watch =
            Watch { store: Self { client: self.client.clone(), transaction: 0 }, path: path.into(), token, receiver };
        watch.store.ask(abi::XS_WATCH, &[path.as_bytes(), b"\0", watch.token.as_bytes(), b"\0"]).await?;
        Ok(watch)
    }

    /// Starts a transaction: what it reads is one moment's, what it writes is written at once or not at all.
    ///
    /// # Errors
    /// A quota's.
    pub async fn begin(&self) -> Result<Transaction, Error> {
        let (answer, open) = Client::begin(&self.client).await?;
        let id = wire::strings(&answer).first().and_then(|id| id.parse().ok()).ok_or(Error::Protocol)?;
        Ok(Transaction { store: Self { client: self.client.clone(), transaction: id }, open: Some(open) })
    }

    async fn ask(&self, kind: u32, parts: &[&[u8]]) -> Answer {
        self.client.ask(kind, self.transaction, parts).await
    }
}

/// A watch; it ends when dropped.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    path: String,
    token: String,
    receiver: Receiver<String>,
}

impl Watch {
    /// Waits for the next change and says where it was; `None` when the connection is broken.
    pub async fn changed(&self) -> Option<String> {
        self.receiver.receive().await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.store.client.watches.borrow_mut().remove(&self.token);
        let (store, path, token) = (self.store.clone(), self.path.clone(), self.token.clone());
        task::spawn(async move {
            // A watch that is gone already needs no ending.
            let _ = store.ask(abi::XS_UNWATCH, &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"]).await;
        });
    }
}

/// A transaction; what it did is undone when it is dropped without [`Transaction::commit`].
#[derive(Debug)]
pub struct Transaction {
    store: Store,
    open: Option<Open>,
}

impl core::ops::Deref for Transaction {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Transaction {
    /// Makes what was written visible.
    ///
    /// # Errors
    /// `EAGAIN` where others wrote what this one read: start again.
    pub async fn commit(mut self) -> Result<(), Error> {
        let _open = self.open.take();
        self.store.ask(abi::XS_TRANSACTION_END, &[b"T\0"]).await.map(|_| ())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            let store = self.store.clone();
            task::spawn(async move {
                let _open = open;
                // Whatever the answer is, nothing was written.
                let _ = store.ask(abi::XS_TRANSACTION_END, &[b"F\0"]).await;
            });
        }
    }
}
