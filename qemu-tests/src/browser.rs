//! A browser without a window: it opens a file, runs its scripts, and says what the page has become.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use oxen_tools::programs::{Release, Tree};
use oxen_tools::workspace::Workspace;

/// The browser, its fonts, and where its program stands.
const PACKAGES: [&str; 4] = ["chromium-headless-shell", "chromium-common", "fonts-dejavu-core", "fontconfig-config"];
const PROGRAM: &str = "usr/lib/chromium/chromium-headless-shell";

/// Debian's Chromium, unpacked beside what this system has.
#[derive(Debug)]
pub(crate) struct Browser(Tree);

impl Browser {
    /// The browser; the first time its packages are fetched.
    ///
    /// # Errors
    /// Fails where apt does not have it.
    pub(crate) fn get(workspace: &Workspace) -> Result<Self> {
        Ok(Self(Tree::get(workspace, "browser", Release::Own, &PACKAGES)?))
    }

    /// Opens a file with a new profile in `folder`, and returns the page as it is when its scripts have run.
    ///
    /// # Errors
    /// Fails when the browser does.
    pub(crate) fn visit(&self, file: &Path, folder: &Path) -> Result<String> {
        let fonts = folder.join("fonts.conf");
        let dir = self.0.file("usr/share/fonts");
        std::fs::write(&fonts, format!("<fontconfig><dir>{}</dir></fontconfig>", dir.display())).context("no fonts")?;
        // It starts itself again as other processes, which the tree's own loader would not find.
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|path| self.0.file(path));
        // What an earlier visit left is not for this one.
        let profile = folder.join("profile");
        if profile.is_dir() {
            std::fs::remove_dir_all(&profile).context("the last visit's profile stays")?;
        }
        let mut command = Command::new(self.0.file(PROGRAM));
        command
            .env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?)
            .env("FONTCONFIG_FILE", fonts)
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,900"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("--dump-dom")
            .arg(format!("file://{}", file.display()))
            .stderr(Stdio::piped());
        let told = command.output().context("the browser does not start")?;
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&told.stderr);
        ensure!(told.status.success(), "the browser fails ({}): {complaint}", told.status);
        Ok(text)
    }
}
