//! A connection by TCP.

use anyhow::{Result, anyhow, bail, ensure};
use oxen_domu_lib::ip::smoltcp::time::Duration;
use oxen_domu_lib::ip::smoltcp::wire::{IpEndpoint, Ipv4Address};
use oxen_domu_lib::ip::{Broken, Tcp};
use oxen_domu_lib::{task, time};

use super::{Network, device::Device};
use crate::saved::stream::{Sink, Source};

/// Bytes that a connection keeps in each direction.
const WINDOW: usize = 512 << 10;
/// How long the other end may be silent until it counts as gone.
const SILENCE: Duration = Duration::from_secs(10);
/// How often it is asked whether it is there.
const ASK: Duration = Duration::from_secs(2);
/// How long an end that is there may say or take nothing, in nanoseconds: longer than a guest may take to suspend
/// itself.
const PATIENCE: u64 = 90 * time::SECOND;

/// One end of a connection. Dropping it breaks the connection off.
pub struct Connection(Tcp<Device>);

impl Connection {
    fn new(network: &Network) -> Self {
        Self(Tcp::new(&network.stack, WINDOW, |socket| {
            socket.set_ack_delay(None);
            socket.set_timeout(Some(SILENCE));
            socket.set_keep_alive(Some(ASK));
        }))
    }

    /// Connects to who listens at an address.
    ///
    /// # Errors
    /// dom0 has no address, or nobody answers there, or says no.
    pub async fn open(network: &Network, to: Ipv4Address, port: u16) -> Result<Self> {
        ensure!(network.leads_to(to), "there is no way to {to} from here");
        let connection = Self::new(network);
        connection.0.dial(to, port).map_err(|Broken| anyhow!("there is no way to {to} from here"))?;
        ensure!(connection.0.established().await, "nobody takes connections at {to}, port {port}");
        Ok(connection)
    }

    /// Waits for somebody to connect to a port.
    ///
    /// # Errors
    /// The port is none.
    pub async fn accept(network: &Network, port: u16) -> Result<Self> {
        let connection = Self::new(network);
        connection.0.listen(port).map_err(|Broken| anyhow!("nobody can listen at port {port}"))?;
        // Who goes away before it is connected leaves the place to others; an end since then is found when it is used.
        connection.0.established().await;
        Ok(connection)
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Option<IpEndpoint> {
        self.0.peer()
    }

    /// Reads some of what came, and returns how many bytes; none when the other end has said all.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn read_some(&self, bytes: &mut [u8]) -> Result<usize> {
        self.0.read_some(bytes).await.map_err(broke)
    }

    /// Sends all of `bytes`; they are on their way when this returns, not there.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn write_all(&self, bytes: &[u8]) -> Result<()> {
        self.0.write(bytes).await.map_err(broke)
    }

    /// Says that all is said, and waits until the other end has heard it or is gone.
    pub async fn finish(&self) {
        self.0.finish().await;
    }
}

impl Source for Connection {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Ok(read) = task::timeout(PATIENCE, self.read_some(rest)).await else {
                bail!("the other end says nothing (in {} s)", PATIENCE / time::SECOND);
            };
            let count = read?;
            ensure!(count != 0, "the other end has hung up");
            rest = rest.get_mut(count..).unwrap_or_default();
        }
        Ok(())
    }
}

impl Sink for Connection {
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Ok(written) = task::timeout(PATIENCE, self.write_all(bytes)).await else {
            bail!("the other end takes nothing (in {} s)", PATIENCE / time::SECOND);
        };
        written
    }
}

fn broke(Broken: Broken) -> anyhow::Error {
    anyhow!("the connection broke")
}
