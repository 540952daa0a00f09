//! A guest's configuration as libxl writes it: JSON by the names of its fields (`libxl_types.idl`).

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use crate::config::{
    Action, GuestConfig,
    disk::Disk,
    judge_name, uuid_of, uuid_text,
    vif::{Interface, Rate},
};

/// What there is of `libxl_domain_config` here. Other fields are left unread.
#[derive(Serialize, Deserialize)]
struct Domain {
    c_info: CreateInfo,
    b_info: BuildInfo,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    disks: Vec<DeviceDisk>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    nics: Vec<DeviceNic>,
    #[serde(default)]
    on_poweroff: String,
    #[serde(default)]
    on_reboot: String,
    #[serde(default)]
    on_crash: String,
}

#[derive(Serialize, Deserialize)]
struct CreateInfo {
    r#type: String,
    name: String,
    #[serde(default)]
    uuid: String,
}

#[derive(Serialize, Deserialize)]
struct BuildInfo {
    #[serde(default)]
    max_vcpus: Option<u32>,
    #[serde(default)]
    avail_vcpus: Option<Vec<u32>>,
    max_memkb: u64,
    #[serde(default)]
    target_memkb: Option<u64>,
    #[serde(default)]
    video_memkb: u64,
    #[serde(default)]
    sched_params: SchedParams,
    #[serde(default)]
    kernel: String,
    #[serde(default)]
    cmdline: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ramdisk: Option<String>,
    /// Of the type's own settings a paravirtual guest needs none.
    #[serde(rename = "type.pv", default, skip_deserializing)]
    type_pv: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize, Default)]
struct SchedParams {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cap: Option<u16>,
}

#[derive(Serialize, Deserialize)]
struct DeviceDisk {
    pdev_path: String,
    vdev: String,
    #[serde(default)]
    backend: String,
    #[serde(default)]
    format: String,
    #[serde(default)]
    readwrite: u32,
}

#[derive(Serialize, Deserialize)]
struct DeviceNic {
    #[serde(default)]
    devid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bridge: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    script: Option<String>,
    #[serde(default)]
    rate_bytes_per_interval: u64,
    #[serde(default)]
    rate_interval_usecs: u32,
}

/// The configuration of a guest that has this name and UUID now.
///
/// # Errors
/// None that can be told of: everything in it is text and numbers.
pub fn to_json(config: &GuestConfig, name: &str, uuid: &[u8; 16]) -> Result<String> {
    let domain = Domain {
        c_info: CreateInfo { r#type: "pv".into(), name: name.into(), uuid: uuid_text(uuid) },
        b_info: BuildInfo {
            max_vcpus: Some(config.maxvcpus),
            avail_vcpus: Some((0..config.vcpus).collect()),
            max_memkb: config.maxmem << 10,
            target_memkb: Some(config.memory << 10),
            video_memkb: 0,
            sched_params: SchedParams { weight: config.cpu_weight, cap: config.cap },
            kernel: config.kernel.clone(),
            cmdline: config.cmdline.clone(),
            ramdisk: config.ramdisk.clone(),
            type_pv: BTreeMap::new(),
        },
        disks: config.disks.iter().map(disk_to_json).collect(),
        nics: config.vifs.iter().zip(0..).map(|(vif, number)| vif_to_json(vif, number)).collect(),
        on_poweroff: action_name(config.on_poweroff).into(),
        on_reboot: action_name(config.on_reboot).into(),
        on_crash: action_name(config.on_crash).into(),
    };
    serde_json::to_string_pretty(&domain).map_err(|why| anyhow!("{why}"))
}

/// Reads one. What means nothing here is left out.
///
/// # Errors
/// It is no JSON, or no configuration of a paravirtual guest.
pub fn from_json(text: &str) -> Result<GuestConfig> {
    let Domain { c_info, b_info, disks, nics, on_poweroff, on_reboot, on_crash } =
        serde_json::from_str(text).map_err(|why| anyhow!("{why}"))?;
    ensure!(c_info.r#type == "pv", "it is no paravirtual guest (its type is {})", c_info.r#type);
    judge_name(&c_info.name).map_err(|rule| anyhow!("its name {rule}"))?;
    let maxmem = b_info.max_memkb.div_ceil(1024);
    let maxvcpus = b_info.max_vcpus.unwrap_or(1);
    let vcpus = b_info.avail_vcpus.map_or(Ok(maxvcpus), |list| u32::try_from(list.len()))?;
    ensure!((1..=128).contains(&maxvcpus) && (1..=maxvcpus).contains(&vcpus), "it claims {vcpus} of {maxvcpus} vcpus");
    Ok(GuestConfig {
        name: c_info.name,
        uuid: uuid_of(&c_info.uuid),
        kernel: b_info.kernel,
        ramdisk: b_info.ramdisk,
        cmdline: b_info.cmdline,
        memory: b_info.target_memkb.map_or(maxmem, |kib| kib.div_ceil(1024)).min(maxmem),
        maxmem,
        // The format has no place for them.
        balloon_shares: None,
        vcpus,
        maxvcpus,
        cpus: Vec::new(),
        cpus_soft: Vec::new(),
        cpu_weight: b_info.sched_params.weight,
        cap: b_info.sched_params.cap.filter(|cap| *cap != 0),
        max_grant_version: None,
        tsc_mode: None,
        is_translated: false,
        disks: disks.iter().map(disk_of).collect::<Result<_>>()?,
        vifs: nics.iter().map(vif_of).collect::<Result<_>>()?,
        on_poweroff: action_of(&on_poweroff),
        on_reboot: action_of(&on_reboot),
        on_crash: action_of(&on_crash),
    })
}

fn disk_to_json(disk: &Disk) -> DeviceDisk {
    DeviceDisk {
        pdev_path: disk.target.clone(),
        vdev: disk.vdev.clone(),
        backend: "phy".into(),
        format: "raw".into(),
        readwrite: disk.writable.into(),
    }
}

fn disk_of(disk: &DeviceDisk) -> Result<Disk> {
    let access = if disk.readwrite == 0 { "ro" } else { "rw" };
    let text = format!("vdev={},access={access},target={}", disk.vdev, disk.pdev_path);
    Disk::parse(&text).with_context(|| format!("its disk {}", disk.vdev))
}

fn vif_to_json(vif: &Interface, devid: u32) -> DeviceNic {
    DeviceNic {
        devid,
        mac: vif.mac.map(|mac| mac.to_string()),
        ip: vif.ip.clone(),
        bridge: Some(vif.bridge.clone()),
        script: Some(vif.script.clone()),
        rate_bytes_per_interval: vif.rate.map_or(0, |rate| rate.bytes),
        rate_interval_usecs: vif.rate.map_or(0, |rate| rate.interval),
    }
}

fn vif_of(vif: &DeviceNic) -> Result<Interface> {
    let fields = [("mac", &vif.mac), ("ip", &vif.ip), ("bridge", &vif.bridge), ("script", &vif.script)];
    let fields = fields.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)));
    let text = fields.collect::<Vec<_>>().join(",");
    let mut interface = Interface::parse(&text).with_context(|| format!("its interface {}", vif.devid))?;
    let (bytes, interval) = (vif.rate_bytes_per_interval, vif.rate_interval_usecs);
    interface.rate = (bytes != 0 && interval != 0).then_some(Rate { bytes, interval });
    Ok(interface)
}

const fn action_name(action: Action) -> &'static str {
    match action {
        Action::Destroy => "destroy",
        Action::Restart => "restart",
        Action::Preserve => "preserve",
    }
}

fn action_of(name: &str) -> Action {
    match name {
        "restart" | "rename_restart" => Action::Restart,
        "preserve" => Action::Preserve,
        _ => Action::Destroy,
    }
}
