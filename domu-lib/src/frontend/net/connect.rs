//! The way to the backend: what each end says of itself in the store.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use oxen_abi::errno::Errno;
use oxen_abi::io::xenbus::XenbusState;

use super::Settings;
use crate::event::Port;
use crate::frontend::{ConnectError, Device};
use crate::grant::Grant;
use crate::handshake::Step;
use crate::memory::PAGE_SIZE;
use crate::store::Error;

/// Bytes of a packet where the toolstack says nothing else: Ethernet's.
const USUAL_MTU: usize = 1500;
/// Bytes of the shortest packet that every host must carry (RFC 791).
const SMALLEST_MTU: usize = 68;

/// What a backend offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Frames of several pieces, and so of more than a page.
    pub scatter_gather: bool,
    /// Large TCP packets over IPv4 that are cut later.
    pub segmentation_ipv4: bool,
    /// Large TCP packets over IPv6 that are cut later.
    pub segmentation_ipv6: bool,
    /// Blank checksums over IPv6; those over IPv4 every backend fills in.
    pub checksum_ipv6: bool,
    /// An event channel for each direction.
    pub split_channels: bool,
}

impl Features {
    async fn read(device: &Device) -> Result<Self, ConnectError> {
        // Receiving by page transfer went out of use with 32-bit hypervisors.
        if device.read_number_or("feature-rx-copy", 0).await != 1 {
            return Err(ConnectError::Lacks("feature-rx-copy"));
        }
        let scatter_gather = device.read_number_or("feature-sg", 0).await == 1;
        Ok(Self {
            scatter_gather,
            segmentation_ipv4: scatter_gather && device.read_number_or("feature-gso-tcpv4", 0).await == 1,
            segmentation_ipv6: scatter_gather && device.read_number_or("feature-gso-tcpv6", 0).await == 1,
            checksum_ipv6: device.read_number_or("feature-ipv6-csum-offload", 0).await == 1,
            split_channels: device.read_number_or("feature-split-event-channels", 0).await == 1,
        })
    }
}

/// The event channels: one for both directions, or one for each.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) transmit: Port,
    receive: Option<Port>,
}

impl Ports {
    fn new(device: &Device, split: bool) -> Result<Self, Errno> {
        let transmit = Port::alloc_unbound(device.backend())?;
        let receive = if split { Some(Port::alloc_unbound(device.backend())?) } else { None };
        Ok(Self { transmit, receive })
    }

    pub(super) fn receive(&self) -> &Port {
        self.receive.as_ref().unwrap_or(&self.transmit)
    }

    fn publish(&self, values: &mut Vec<(&str, String)>) {
        match &self.receive {
            Some(receive) => {
                values.push(("event-channel-tx", self.transmit.number().to_string()));
                values.push(("event-channel-rx", receive.number().to_string()));
            }
            None => values.push(("event-channel", self.transmit.number().to_string())),
        }
    }
}

/// What we say of ourselves beside rings and ports.
const ABILITIES: [&str; 6] = [
    "request-rx-copy",
    "feature-rx-notify",
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-ipv6-csum-offload",
];

/// Goes through the handshake with the rings' pages.
pub(super) async fn connect(
    device: &mut Device,
    transmit: &Grant,
    receive: &Grant,
) -> Result<(Settings, Ports), ConnectError> {
    let mac = parse_mac(&device.setting("mac").await?).ok_or(Error::Refused(Errno::Inval))?;
    let wished = device.setting("mtu").await.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL_MTU);
    let mut offered = None;
    loop {
        let peer = device.peer().await?;
        match device.step().await? {
            // A network backend knows no state between being offered rings and being connected to them.
            Step::Offer(_) => {
                let features = Features::read(device).await?;
                let ports = Ports::new(device, features.split_channels)?;
                let mut values = Vec::from([
                    ("tx-ring-ref", transmit.reference().to_string()),
                    ("rx-ring-ref", receive.reference().to_string()),
                ]);
                ports.publish(&mut values);
                values.extend(ABILITIES.map(|ability| (ability, "1".to_string())));
                let values: Vec<_> = values.iter().map(|(key, value)| (*key, value.as_str())).collect();
                device.publish(&values, XenbusState::Connected).await?;
                offered = Some((features, ports));
            }
            Step::Wait | Step::Connect | Step::Reconfigure(_) => match offered.take() {
                Some((features, ports)) if peer == XenbusState::Connected => {
                    let most =
                        if features.scatter_gather { usize::from(u16::MAX) } else { PAGE_SIZE } - super::SHORTEST;
                    let mtu = wished.clamp(SMALLEST_MTU, most);
                    return Ok((Settings { mac, mtu, features }, ports));
                }
                kept => {
                    offered = kept;
                    device.answered().await?;
                }
            },
            Step::Close(_) | Step::Gone => {
                device.publish(&[], XenbusState::Closed).await?;
                return Err(ConnectError::Closed);
            }
        }
    }
}

/// Six bytes in hexadecimal digits with colons between them.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2));
    let mut mac = [0; 6];
    for place in &mut mac {
        *place = bytes.next()??;
    }
    bytes.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read_as_the_toolstack_writes_them() {
        assert_eq!(parse_mac("00:16:3e:5A:00:ff\n"), Some([0, 0x16, 0x3e, 0x5a, 0, 0xff]));
        for wrong in ["", "00:16:3e:5a:00", "00:16:3e:5a:00:01:02", "0:16:3e:5a:00:01", "00:16:3e:5a:00:0g", "é0:1"] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }
}
