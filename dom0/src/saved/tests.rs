//! The formats, written and read.

use alloc::{format, string::ToString, vec, vec::Vec};
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use anyhow::{Result, bail};
use oxen_abi::guest_context::VcpuGuestContext;
use oxen_abi::shared_info::ArchSharedInfo;
use oxen_domu_lib::memory::Mfn;
use proptest::prelude::*;
use zerocopy::{FromZeros, IntoBytes};

use super::tables::{Table, translate, translate_context};
use super::walk::Judge;
use super::{config, envelope, p2m, record};

/// What has no reason to wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

/// What libxl 4.17 wrote of a guest that `xl save` put down.
const LIBXLS: &str = r#"{
    "c_info": { "type": "pv", "name": "saved", "uuid": "39b2edba-b1d5-4998-863e-c07303eaa24b",
        "run_hotplug_scripts": "True" },
    "b_info": { "max_vcpus": 2, "avail_vcpus": [ 0, 1 ], "max_memkb": 131072, "target_memkb": 131072,
        "video_memkb": 0, "sched_params": { "sched": "credit2", "weight": 256, "cap": 0 }, "claim_mode": "True",
        "kernel": "guests/kernel", "cmdline": "console=hvc0 rdinit=/init", "ramdisk": "guests/initrd",
        "type.pv": { }, "arch_arm": { }, "arch_x86": { "msr_relaxed": "False" } },
    "disks": [ { "pdev_path": "/dev/vda", "vdev": "xvda", "backend": "phy", "format": "raw", "readwrite": 1 } ],
    "nics": [ { "devid": 0, "mac": "00:16:3e:01:02:03", "bridge": "xenbr0", "script": "/etc/xen/scripts/vif-bridge",
        "nictype": "vif" } ],
    "on_poweroff": "preserve", "on_reboot": "restart", "on_crash": "preserve", "on_soft_reset": "soft_reset"
}"#;

#[test]
fn a_configuration_of_libxls_is_read_and_comes_back_the_same() {
    let read = config::from_json(LIBXLS).unwrap();
    assert_eq!((read.name.as_str(), read.memory, read.maxmem, read.vcpus), ("saved", 128, 128, 2));
    assert_eq!((read.disks[0].target.as_str(), read.disks[0].writable), ("/dev/vda", true));
    assert_eq!(read.vifs[0].mac.unwrap().to_string(), "00:16:3e:01:02:03");
    let again = config::from_json(&config::to_json(&read, "other", &read.uuid.unwrap()).unwrap()).unwrap();
    assert_eq!(again.name, "other");
    assert_eq!(crate::config::GuestConfig { name: read.name.clone(), ..again }, read);
    for (from, to, why) in [
        ("\"pv\"", "\"hvm\"", "no paravirtual guest"),
        ("\"saved\"", "\"a b\"", "its name"),
        ("\"max_vcpus\": 2", "\"max_vcpus\": 1", "claims 2 of 1 vcpus"),
        ("\"xvda\"", "\"nix\"", "no virtual disk"),
        ("\"c_info\": {", "\"d_info\": {", "missing field `c_info`"),
    ] {
        let error = format!("{:#}", config::from_json(&LIBXLS.replace(from, to)).unwrap_err());
        assert!(error.contains(why), "{error}");
    }
}

/// A stream of two pages, of which one has contents.
fn stream() -> Vec<u8> {
    let mut bytes = Vec::new();
    now(async {
        envelope::begin(&mut bytes, "{}").await?;
        record::write_heads(&mut bytes, (4, 17)).await?;
        let words = [7, 8 | u64::from(record::KIND_NONE) << record::KIND_SHIFT];
        record::write(&mut bytes, record::PAGE_DATA, &[[2_u32, 0].as_bytes(), words.as_bytes(), &[5; 4096]]).await?;
        record::write(&mut bytes, record::TSC_INFO, &[&[1; 21]]).await?;
        record::write(&mut bytes, record::END, &[]).await?;
        envelope::end(&mut bytes).await
    })
    .unwrap();
    bytes
}

/// Reads a stream like that to its end; returns how many pages have contents.
fn read(mut bytes: &[u8]) -> Result<usize> {
    let mut judge = Judge::default();
    now(judge.read(&mut bytes))?;
    Ok(judge.full)
}

#[test]
fn a_stream_is_read_as_it_was_put_down() {
    let bytes = stream();
    assert_eq!(read(&bytes).unwrap(), 1);
    assert_eq!(bytes.len() % 8, 7, "the configuration of 3 bytes is padded by nobody");
    for length in 0..bytes.len() {
        assert!(read(&bytes[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn what_is_no_stream_of_this_format_is_told_apart() {
    let place = |pattern: &[u8]| stream().windows(pattern.len()).position(|part| part == pattern).unwrap();
    let libxl = place(b"LibxlFmt");
    let libxc = place(&[0xff; 8]);
    for (at, byte, why) in [
        (0, b'Y', "no saved domain"),
        (32, 9, "byte order"),
        (36, 7, "later format"),
        (36, 1, "before Xen 4.6"),
        (44, 9, "configuration is damaged"),
        (libxl + 1, 0, "no stream of libxl's"),
        (libxl + 11, 3, "version 3, and 2 is known"),
        (libxl + 15, 1, "byte order"),
        (libxc + 8, 0, "no stream of libxc's"),
        (libxc + 15, 4, "version 4, and 3 is known"),
        (libxc + 24, 2, "no paravirtual guest (type 2)"),
        (libxc + 28, 13, "not of 4 KiB"),
        (libxc + 48, 0, "a record has 0 pages"),
        (libxc + 48, 3, "a record of 3 pages has"),
        (libxc + 44, 1, "bytes"),
    ] {
        let mut bytes = stream();
        bytes[at] = byte;
        let error = format!("{:#}", read(&bytes).unwrap_err());
        assert!(error.contains(why), "{at}: {error}");
    }
}

proptest! {
    /// Whatever is damaged: an error, never a panic and never a claim for much memory.
    #[test]
    fn a_damaged_stream_is_an_error_or_another_stream(
        damage in proptest::collection::vec((0..4400_usize, any::<u8>()), 1..6)
    ) {
        let mut bytes = stream();
        for (at, byte) in damage {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        let _ = read(&bytes);
    }
}

#[test]
fn registers_that_a_vcpu_never_had_are_none() {
    assert!(!record::is_any(&[]) && !record::is_any(&[0; 2712]));
    for at in [0, 8, 15] {
        let mut state = [0; 592];
        state[at] = 1;
        assert!(record::is_any(&state));
    }
}

#[test]
fn tables_name_pages_and_frames_in_turn() {
    let mut table: Table = [0; 512];
    [table[0], table[1], table[256], table[511]] = [0x8000_0000_0001_2067, 0x13_0066, 0x14_0067, 0x15_0025];
    let before = table;
    translate(4, &mut table, |frame| Ok(frame + 1)).unwrap();
    assert_eq!([table[0], table[1], table[256], table[511]], [0x8000_0000_0001_3067, 0x13_0066, 0, 0x15_1025]);
    translate(3, &mut table, |frame| Ok(frame - 1)).unwrap();
    assert_eq!((table[0], table[511]), (before[0], before[511]));
    let error = translate(1, &mut table, |frame| if frame == 0x12 { bail!("not his") } else { Ok(frame) });
    assert_eq!(format!("{:#}", error.unwrap_err()), "L1 entry 0: not his");
}

#[test]
fn a_context_names_pages_and_frames_in_turn() {
    let mut context = VcpuGuestContext::new_zeroed();
    context.gdt_ents = 513;
    [context.gdt_frames[0], context.gdt_frames[1], context.gdt_frames[2]] = [10, 11, 99];
    [context.ctrlreg[1], context.ctrlreg[3]] = [0, 20 << 12];
    translate_context(&mut context, |frame| Ok(frame + 1)).unwrap();
    assert_eq!(context.gdt_frames[..3], [11, 12, 99]);
    assert_eq!((context.ctrlreg[1], context.ctrlreg[3]), (0, 21 << 12));
    context.ctrlreg[1] = 30 << 12 | 1;
    translate_context(&mut context, |frame| Ok(frame - 1)).unwrap();
    assert_eq!((context.gdt_frames[1], context.ctrlreg[1], context.ctrlreg[3]), (11, 29 << 12 | 1, 20 << 12));
    context.gdt_ents = 16 * 512 + 1;
    let error = translate_context(&mut context, Ok).unwrap_err();
    assert_eq!(error.to_string(), "its GDT has 8193 entries");
}

/// Frames by their numbers.
fn frames(list: &[(u64, Table)]) -> impl Fn(Mfn) -> Result<Table> {
    move |frame| match list.iter().find(|(number, _)| Mfn::new(*number) == frame) {
        Some((_, table)) => Ok(*table),
        None => bail!("frame {} is nobody's", frame.raw()),
    }
}

#[test]
fn a_p2m_is_found_where_the_guest_says() {
    let filled = |words: &[(usize, u64)]| {
        let mut table: Table = [0; 512];
        words.iter().for_each(|(at, word)| table[*at] = *word);
        table
    };
    let arch = |max_pfn, list, cr3, vaddr| ArchSharedInfo {
        max_pfn,
        pfn_to_mfn_frame_list_list: list,
        p2m_cr3: cr3,
        p2m_vaddr: vaddr,
        ..FromZeros::new_zeroed()
    };
    let tree = vec![(1, filled(&[(0, 2)])), (2, filled(&[(0, 30), (1, 31)]))];
    assert_eq!(p2m::find(&arch(513, 1, 0, 0), frames(&tree)).unwrap(), [30, 31].map(Mfn::new));
    let address = 0xffff_8880_0000_0000_u64 + (511 << 12);
    let linear = vec![
        (1, filled(&[(273, 2 << 12 | 1)])),
        (2, filled(&[(0, 3 << 12 | 1)])),
        (3, filled(&[(0, 4 << 12 | 1), (1, 5 << 12 | 1)])),
        (4, filled(&[(511, 30 << 12 | 1)])),
        (5, filled(&[(0, 31 << 12 | 1)])),
    ];
    assert_eq!(p2m::find(&arch(1024, 0, 1 << 12, address), frames(&linear)).unwrap(), [30, 31].map(Mfn::new));
    for (wrong, why) in [
        (arch(0, 1, 0, 0), "has not told of its p2m"),
        (arch(u64::MAX, 1, 0, 0), "claims"),
        (arch(5, 0, 0, 0), "has not said where"),
        (arch(513, 9, 0, 0), "nobody's"),
        (arch(1025, 0, 1 << 12, address), "nothing is mapped"),
        (arch(1, 0, 1 << 12, address + 8), "not that of a page"),
    ] {
        let error = format!("{:#}", p2m::find(&wrong, frames(&[tree.clone(), linear.clone()].concat())).unwrap_err());
        assert!(error.contains(why), "{error}");
    }
}
