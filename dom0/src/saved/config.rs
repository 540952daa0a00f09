//! A guest's configuration as libxl writes it: JSON by the names of its fields (`libxl_types.idl`).

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::config::{
    Action, GuestConfig,
    disk::Disk,
    judge_name, uuid_of, uuid_text,
    vif::{Interface, Rate},
};

/// The configuration of a guest that has this name and UUID now.
pub fn to_json(config: &GuestConfig, name: &str, uuid: &[u8; 16]) -> String {
    let disks: Vec<Value> = config.disks.iter().map(disk_to_json).collect();
    let vifs: Vec<Value> =
        config.vifs.iter().zip(0..).map(|(vif, number): (_, u32)| vif_to_json(vif, number)).collect();
    let vcpus: Vec<u32> = (0..config.vcpus).collect();
    let mut json = json!({
        "c_info": { "type": "pv", "name": name, "uuid": uuid_text(uuid) },
        "b_info": {
            "max_vcpus": config.maxvcpus,
            "avail_vcpus": vcpus,
            "max_memkb": config.maxmem << 10,
            "target_memkb": config.memory << 10,
            "video_memkb": 0,
            "sched_params": { "weight": config.cpu_weight.unwrap_or(256), "cap": config.cap.unwrap_or(0) },
            "kernel": config.kernel,
            "cmdline": config.cmdline,
            "type.pv": {},
            "arch_arm": {},
            "arch_x86": {},
        },
        "disks": disks,
        "nics": vifs,
        "on_poweroff": action_name(config.on_poweroff),
        "on_reboot": action_name(config.on_reboot),
        "on_crash": action_name(config.on_crash),
    });
    if let (Some(ramdisk), Some(build)) = (&config.ramdisk, json.get_mut("b_info")) {
        build["ramdisk"] = ramdisk.as_str().into();
    }
    for empty in ["disks", "nics"] {
        if let Some(fields) = json.as_object_mut()
            && fields.get(empty).and_then(Value::as_array).is_some_and(Vec::is_empty)
        {
            fields.remove(empty);
        }
    }
    format!("{json:#}\n")
}

/// Reads one. What means nothing here is left out.
///
/// # Errors
/// It is no JSON, or no configuration of a paravirtual guest.
pub fn from_json(text: &str) -> Result<GuestConfig> {
    let json: Value = serde_json::from_str(text).map_err(|why| anyhow!("{why}"))?;
    let (create, build) = (&json["c_info"], &json["b_info"]);
    ensure!(create["type"] == "pv", "it is no paravirtual guest (its type is {})", create["type"]);
    let name = create["name"].as_str().context("it has no name")?;
    judge_name(name).map_err(|rule| anyhow!("its name {rule}"))?;
    let text = |key: &str| build[key].as_str().map(str::to_string);
    let number = |key: &str| build[key].as_u64();
    let maxmem = number("max_memkb").context("it does not say how much memory it has")?.div_ceil(1024);
    let maxvcpus = number("max_vcpus").unwrap_or(1);
    let vcpus = build["avail_vcpus"].as_array().map_or(maxvcpus, |list| list.len() as u64);
    ensure!((1..=128).contains(&maxvcpus) && (1..=maxvcpus).contains(&vcpus), "it claims {vcpus} of {maxvcpus} vcpus");
    let share = |key: &str| build["sched_params"][key].as_u64().and_then(|n| u16::try_from(n).ok());
    let list = |key: &str| json[key].as_array().into_iter().flatten();
    let action = |key: &str| action_of(json[key].as_str().unwrap_or_default());
    Ok(GuestConfig {
        name: name.to_string(),
        uuid: create["uuid"].as_str().and_then(uuid_of),
        kernel: text("kernel").unwrap_or_default(),
        ramdisk: text("ramdisk"),
        cmdline: text("cmdline").unwrap_or_default(),
        memory: number("target_memkb").map_or(maxmem, |kib| kib.div_ceil(1024)).min(maxmem),
        maxmem,
        vcpus: u32::try_from(vcpus)?,
        maxvcpus: u32::try_from(maxvcpus)?,
        cpus: Vec::new(),
        cpus_soft: Vec::new(),
        cpu_weight: share("weight"),
        cap: share("cap").filter(|cap| *cap != 0),
        max_grant_version: None,
        tsc_mode: None,
        disks: list("disks").map(disk_of).collect::<Result<_>>()?,
        vifs: list("nics").map(vif_of).collect::<Result<_>>()?,
        on_poweroff: action("on_poweroff"),
        on_reboot: action("on_reboot"),
        on_crash: action("on_crash"),
    })
}

fn disk_to_json(disk: &Disk) -> Value {
    json!({
        "pdev_path": disk.target,
        "vdev": disk.vdev,
        "backend": "phy",
        "format": "raw",
        "readwrite": u32::from(disk.writable),
    })
}

fn disk_of(json: &Value) -> Result<Disk> {
    let text = |key: &str| json[key].as_str().with_context(|| format!("a disk of its has no `{key}`"));
    let access = if json["readwrite"].as_u64().unwrap_or(1) == 0 { "ro" } else { "rw" };
    Disk::parse(&format!("vdev={},access={access},target={}", text("vdev")?, text("pdev_path")?))
}

fn vif_to_json(vif: &Interface, number: u32) -> Value {
    let mut json = json!({ "devid": number, "bridge": vif.bridge, "script": vif.script, "nictype": "vif" });
    json["mac"] = vif.mac.map(|mac| mac.to_string()).into();
    if let Some(ip) = &vif.ip {
        json["ip"] = ip.as_str().into();
    }
    if let Some(Rate { bytes, interval }) = vif.rate {
        json["rate_bytes_per_interval"] = bytes.into();
        json["rate_interval_usecs"] = interval.into();
    }
    json
}

fn vif_of(json: &Value) -> Result<Interface> {
    let fields = ["mac", "bridge", "ip"].into_iter().filter_map(|key| Some(format!("{key}={}", json[key].as_str()?)));
    let mut interface = Interface::parse(&fields.collect::<Vec<_>>().join(","))?;
    let number = |key: &str| json[key].as_u64().filter(|n| *n != 0);
    if let (Some(bytes), Some(interval)) = (number("rate_bytes_per_interval"), number("rate_interval_usecs")) {
        interface.rate = Some(Rate { bytes, interval: u32::try_from(interval)? });
    }
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
        "restart" | "rename_restart" | "rename-restart" => Action::Restart,
        "preserve" => Action::Preserve,
        _ => Action::Destroy,
    }
}
