//! One network interface of a guest: what is published about it, and how it is connected.

use alloc::{format, rc::Rc, string::String, string::ToString, vec::Vec};

use anyhow::{Result, bail, ensure};

use super::receive::MAX_HEADROOM;
use super::session::{NetSession, Start};
use crate::backend::device::{Device, Driver, Front, Nodes};
use crate::bridge::{Bridge, BridgePort, Mac, Offload, Packet};
use crate::config::vif::Interface;
use crate::guest_text::quoted;

/// What goes with any interface: bytes of payload of a frame.
const MTU: &str = "1500";

/// A guest's interface, with its handshake.
pub type NetDevice = Device<NetDriver>;

/// A guest's interface.
pub struct NetDriver {
    /// As configured.
    pub config: Interface,
    /// The guest's address.
    pub mac: Mac,
    /// Its place at the bridge. It is there from the beginning, and takes nothing until a frontend is connected.
    pub port: Rc<BridgePort>,
    number: u32,
}

impl NetDriver {
    /// Interface `number` of a domain, which is attached to the bridge.
    pub fn new(bridge: &Bridge, domain: u16, number: u32, config: &Interface, mac: Mac) -> Self {
        let name = config.vifname.clone().unwrap_or_else(|| format!("vif{domain}.{number}"));
        let port = Rc::new(bridge.attach_interface(&name, mac));
        port.set_open(false);
        Self { config: config.clone(), mac, port, number }
    }
}

impl Driver for NetDriver {
    type Session = NetSession;
    const CLASS: &'static str = "vif";

    fn title(&self) -> String {
        format!("interface {}", self.port.name())
    }

    fn number(&self) -> u32 {
        self.number
    }

    fn back_nodes(&self) -> Nodes {
        let config = &self.config;
        let mut nodes: Nodes = [
            ("script", config.script.clone()),
            ("mac", self.mac.to_string()),
            ("bridge", config.bridge.clone()),
            ("handle", self.number.to_string()),
            ("type", "vif".into()),
        ]
        .into();
        let optional = [("ip", config.ip.clone()), ("vifname", config.vifname.clone())];
        nodes.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        if let Some(rate) = config.rate {
            nodes.push(("rate", format!("{},{}", rate.bytes, rate.interval)));
        }
        nodes
    }

    fn front_nodes(&self) -> Nodes {
        let (handle, mac) = (self.number.to_string(), self.mac.to_string());
        [("handle", handle.as_str()), ("mac", &mac), ("trusted", "1"), ("mtu", MTU)]
            .map(|(name, value)| (name, value.to_string()))
            .into()
    }

    fn offer(&self) -> Nodes {
        [
            ("feature-sg", "1"),
            ("feature-gso-tcpv4", "1"),
            ("feature-gso-tcpv6", "1"),
            ("feature-ipv6-csum-offload", "1"),
            ("feature-rx-copy", "1"),
            ("feature-rx-flip", "0"),
            ("feature-split-event-channels", "1"),
            ("feature-xdp-headroom", "1"),
            ("multi-queue-max-queues", "1"),
            ("hotplug-status", "connected"),
        ]
        .map(|(name, value)| (name, value.to_string()))
        .into()
    }

    fn connect(&self, front: &Front<'_>, waiting: Option<Packet>) -> Result<(Rc<NetSession>, Nodes)> {
        // Where it fails, nobody takes what the bridge has for the guest.
        let session = self.open(front, waiting).inspect_err(|_| self.port.set_open(false))?;
        Ok((session, Nodes::new()))
    }

    fn reconfigure(&self, front: &Front<'_>, session: &NetSession) -> bool {
        session.set_headroom(headroom(front));
        true
    }
}

impl NetDriver {
    fn open(&self, front: &Front<'_>, waiting: Option<Packet>) -> Result<Rc<NetSession>> {
        ensure!(
            front.has("request-rx-copy"),
            "the frontend wants its pages exchanged; only frontends with request-rx-copy are served"
        );
        if let Some(queues) = front.value("multi-queue-num-queues").filter(|queues| queues != "1") {
            bail!("the frontend wants `{}` queues; one is offered", quoted(&queues));
        }
        let ports = if front.value("event-channel").is_some() {
            Vec::from([front.number("event-channel")?])
        } else {
            Vec::from([front.number("event-channel-tx")?, front.number("event-channel-rx")?])
        };
        let scatter = front.has("feature-sg");
        let session = NetSession::open(Start {
            domain: front.domain,
            purse: front.purse.clone(),
            transmit: front.number("tx-ring-ref")?,
            receive: front.number("rx-ring-ref")?,
            ports,
            scatter,
            rate: self.config.rate,
            headroom: headroom(front),
            bridge: self.port.clone(),
            waiting,
        })?;
        self.port.set_offload(Offload {
            checksum_v4: !front.has("feature-no-csum-offload"),
            checksum_v6: front.has("feature-ipv6-csum-offload"),
            segmentation_v4: scatter && front.has("feature-gso-tcpv4"),
            segmentation_v6: scatter && front.has("feature-gso-tcpv6"),
        });
        Ok(session)
    }
}

/// Bytes that the frontend wants left free before each frame, for programs that look at frames (`xdp-headroom`).
fn headroom(front: &Front<'_>) -> u16 {
    front.value("xdp-headroom").and_then(|text| text.parse().ok()).unwrap_or(0).min(MAX_HEADROOM)
}
