//! A writer of `cpio` archives in the "newc" form, the ramdisk that dom0 reads.

/// An archive being written. Entries are regular files; folders on the way need no entry of their own.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a file. Of two files of one name dom0 takes the first. A file of 4 GiB or more is cut.
    pub fn add(&mut self, name: &str, data: &[u8]) {
        self.entries += 1;
        self.entry(self.entries, 0o100_644, name, data);
    }

    /// Adds a program, which a Linux kernel may execute.
    pub fn add_program(&mut self, name: &str, data: &[u8]) {
        self.entries += 1;
        self.entry(self.entries, 0o100_755, name, data);
    }

    /// Adds a folder, which a Linux kernel wants before what lies in it.
    pub fn add_folder(&mut self, name: &str) {
        self.entries += 1;
        self.entry(self.entries, 0o040_755, name, &[]);
    }

    /// Ends the archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(0, 0, "TRAILER!!!", &[]);
        self.bytes
    }

    fn entry(&mut self, inode: u32, mode: u32, name: &str, data: &[u8]) {
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let data = data.get(..size as usize).unwrap_or(data);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // inode, mode, uid, gid, links, time, size, device (2), special device (2), length of the name, checksum
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    /// Headers and data begin at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn an_archive_has_the_bytes_that_the_format_asks() {
        let mut archive = Archive::default();
        archive.add("a", b"hello");
        let bytes = archive.finish();
        let header = b"070701\
            00000001000081A4000000000000000000000001000000000000000500000000000000000000000000000000\
            0000000200000000a\0";
        assert_eq!(&bytes[..112], header.as_slice());
        assert_eq!(&bytes[112..120], b"hello\0\0\0");
        assert!(bytes[120..].starts_with(b"070701"));
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn the_systems_cpio_reads_it_back_where_there_is_one() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let mut archive = Archive::default();
        archive.add("guests/hello", &[7; 1001]);
        archive.add("hello.cfg", b"name = \"hello\"\n");
        let Ok(mut cpio) =
            Command::new("cpio").args(["-it", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        else {
            return;
        };
        cpio.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, b"guests/hello\nhello.cfg\n");
    }
}
