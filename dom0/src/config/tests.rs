//! Configurations as people write them.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::*;

#[test]
fn a_whole_configuration_is_read() {
    let source = r#"
        name = "fs"; type = "pv"
        kernel = "fs"
        root = "/dev/xvda1"
        extra = "console=hvc0 quiet"
        memory = 64
        maxmem = "128"
        vcpus = 2
        disk = [ "phy:/dev/vda,xvda,w" ]
        on_reboot = "preserve"
        uuid = "0fccc158-e4f0-11f1-a0a2-3ed83e07cf68"
    "#;
    let c = parse(source).unwrap();
    assert_eq!((c.name.as_str(), c.memory, c.maxmem, c.vcpus, c.maxvcpus), ("fs", 64, 128, 2, 2));
    assert_eq!(c.cmdline, "root=/dev/xvda1 console=hvc0 quiet");
    assert_eq!((c.on_poweroff, c.on_reboot, c.on_crash), (Action::Destroy, Action::Preserve, Action::Destroy));
    assert_eq!(c.disks.first().unwrap().number, 51712);
    assert_eq!(c.uuid.unwrap().first(), Some(&0x0f));
    assert_eq!(c.max_grant_version, None);
    let versions = ["1", "2", "3"].map(|n| parse(&format!("{source}\nmax_grant_version = {n}")).ok());
    assert_eq!(versions.map(|c| c.and_then(|c| c.max_grant_version)), [Some(1), Some(2), None]);
}

#[test]
fn the_time_stamp_counter_is_chosen_as_in_xl() {
    let mode = |value: &str| parse(&format!("name='a'\nkernel='k'\ntsc_mode={value}")).map(|c| c.tsc_mode);
    let chosen = [("'default'", 0), ("'always_emulate'", 1), ("'native'", 2), ("1", 1), ("'2'", 2)];
    assert!(chosen.into_iter().all(|(value, expected)| mode(value) == Ok(Some(expected))));
    let wants = "line 3: `tsc_mode` wants \"default\", \"always_emulate\" or \"native\"";
    for value in ["'native_paravirt'", "3", "['native']"] {
        assert_eq!(mode(value).unwrap_err().to_string(), wants);
    }
    assert_eq!(parse("name='a'\nkernel='k'").unwrap().tsc_mode, None);
}

#[test]
fn an_unknown_key_is_named_with_line_and_nearest() {
    let message = parse("name = 'x'\nmemry = 3").unwrap_err().to_string();
    assert_eq!(message, "line 2: unknown key `memry`; did you mean `memory`?");
    assert!(parse("zzzzzzzz = 3").unwrap_err().to_string().contains("known are: name"));
}

#[test]
fn what_is_wrong_is_said() {
    let wrong = [
        ("kernel='k'", "`name` is missing; write for example name = \"hello\""),
        ("name='a'", "`kernel` is missing; write for example kernel = \"hello\""),
        ("name='a'\nname='b'", "line 2: `name` is given twice"),
        ("name='a'\nkernel='k'\nmemory='x'", "line 3: `memory` wants a number of MiB from 1 to 16777216"),
        ("name='a'\nkernel='k'\nmemory=8\nmaxmem=4", "line 4: `maxmem` 4 is less than `memory` 8"),
        ("name='a'\nkernel='k'\ndisk='x'", "line 3: `disk` wants a list in brackets"),
        ("name='a'\nkernel='k'\ndisk=['x']", "line 3: disk 'x': names no virtual disk, such as vdev=xvda"),
        ("name='a'\nkernel='k'\non_crash='x'", "line 3: `on_crash` is `x`; it may be destroy, restart or preserve"),
        (
            "name='a'\nkernel='k'\ncmdline=''\nroot='x'",
            "line 3: `cmdline` already says everything; leave `root` and `extra` out",
        ),
        ("name='a'\nkernel='k'\nuuid='1'", "line 3: `uuid` is `1`; it has 32 hexadecimal digits"),
        ("type='hvm'", "line 1: `type` is `hvm`; only paravirtual guests are built (type = \"pv\")"),
    ];
    for (source, message) in wrong {
        assert_eq!(parse(source).unwrap_err().to_string(), message, "{source}");
    }
    assert!(parse("name='a b'\nkernel='k'").is_err() && parse("name='17'\nkernel='k'").is_err());
}

#[test]
fn words_count_instead_of_lines_and_are_named_as_words() {
    let source = "name = 'a'\nkernel = 'k'\ndisk = [ 'phy:vda,xvda,w',\n  'phy:vdb,xvdb,r' ]\nmemory = 16";
    let with = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
        parse_with(source, &words).map(|(config, _)| config).map_err(|error| error.to_string())
    };
    let config = with(&["name=b", "memory=64", "memory=32", "disk=[]"]).unwrap();
    assert_eq!((config.name.as_str(), config.memory, config.disks.len()), ("b", 32, 0));
    assert_eq!(with(&["memry=64"]), Err("on the command line: unknown key `memry`; did you mean `memory`?".into()));
    let wrong = "on the command line: `memory` wants a number of MiB from 1 to 16777216";
    assert_eq!(with(&["memory=64m"]), Err(wrong.into()));
    assert_eq!(with(&["name"]), Err("on the command line: `name` is not of the form KEY=VALUE".into()));
    assert_eq!(with(&["maxmem=8"]), Err("on the command line: `maxmem` 8 is less than `memory` 16".into()));
}

#[test]
fn what_xl_knows_and_we_do_not_have_is_a_warning() {
    let source = "name='a'\nkernel='k'\nvfb=['vnc=1']\non_watchdog='destroy'\nlocaltime=1";
    let (config, warnings) = parse_with(source, &[]).unwrap();
    let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(config.name, "a");
    assert_eq!(said.len(), 3);
    assert_eq!(said.first().unwrap(), "line 3: `vfb` means nothing here and does not count");
    assert!(keys::OTHERS.iter().all(|key| !KEYS.contains(key)) && keys::OTHERS.is_sorted());
}

#[test]
fn processors_are_named_for_all_vcpus_or_for_each() {
    let cpus = |value: &str| parse(&format!("name='a'\nkernel='k'\ncpus={value}")).map(|config| config.cpus);
    let set = |text| CpuSet::parse(text).unwrap();
    assert_eq!(cpus("'0-1,^1'"), Ok(Vec::from([set("0")])));
    assert_eq!(cpus("3"), Ok(Vec::from([set("3")])));
    let soft = parse("name='a'\nkernel='k'\ncpus='0-1'\ncpus_soft=['1']").unwrap();
    assert_eq!((soft.cpus, soft.cpus_soft), (Vec::from([set("0-1")]), Vec::from([set("1")])));
    assert_eq!(cpus("['0', 1, 'all']"), Ok(Vec::from([set("0"), set("1"), CpuSet::ALL])));
    let error = cpus("'x'").unwrap_err().to_string();
    assert_eq!(error, "line 3: `cpus` cannot be understood: `x` is no processor; write for example 0-3,5 or all");
}

#[test]
fn uuids_are_written_in_groups() {
    let uuid = 0x0fcc_c158_e4f0_11f1_a0a2_3ed8_3e07_cf68_u128.to_be_bytes();
    assert_eq!(super::uuid_text(&uuid), "0fccc158-e4f0-11f1-a0a2-3ed83e07cf68");
}
