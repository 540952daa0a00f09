//! dom0's own command line.

use alloc::{string::String, vec::Vec};

/// What the command line asks for; words without a meaning here are left alone, as kernels do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Commands to run instead of a prompt.
    pub script: Option<Script>,
    /// Commands that run at the prompt before the first line is typed, as if they had been typed.
    pub type_ahead: Vec<String>,
    /// dom0's address in the network.
    pub ip: Option<String>,
    /// Who leads out of the network.
    pub gateway: Option<String>,
    /// What dom0 seals with that it sends to other machines.
    pub migration_key: Option<String>,
    /// End QEMU through its debug-exit device, so that the host learns success or failure.
    pub debug_exit: bool,
}

/// Where a script stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// On the command line.
    Here(String),
    /// In a file of the archive.
    File(String),
}

impl Options {
    /// Reads `script="a; b" type="c" debug-exit`.
    pub fn parse(cmdline: &str) -> Self {
        let mut options = Self::default();
        for word in words(cmdline) {
            if word == "debug-exit" {
                options.debug_exit = true;
            } else if let Some(script) = word.strip_prefix("script=") {
                options.script = Some(match script.strip_prefix('@') {
                    Some(file) => Script::File(file.into()),
                    None => Script::Here(script.into()),
                });
            } else if let Some(typed) = word.strip_prefix("type=") {
                options.type_ahead = commands(typed);
            } else if let Some(ip) = word.strip_prefix("ip=") {
                options.ip = Some(ip.into());
            } else if let Some(gateway) = word.strip_prefix("gateway=") {
                options.gateway = Some(gateway.into());
            } else if let Some(key) = word.strip_prefix("migration-key=") {
                options.migration_key = Some(key.into());
            }
        }
        options
    }
}

/// Splits at blanks that are not in quotes; the quotes go. What stands between the brackets of `KEY=[…]` stays as it
/// is, blanks and quotes included.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut is_list) = (Vec::new(), None::<String>, None, false);
    for c in line.chars() {
        if is_list {
            match c {
                c if quote == Some(c) => quote = None,
                '"' | '\'' if quote.is_none() => quote = Some(c),
                ']' if quote.is_none() => is_list = false,
                _ => {}
            }
            word.get_or_insert_default().push(c);
            continue;
        }
        is_list = quote.is_none() && c == '[' && word.as_ref().is_some_and(|word: &String| word.ends_with('='));
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The commands of a script: separated by semicolons or line ends outside quotes, empty ones dropped.
pub fn commands(script: &str) -> Vec<String> {
    let mut quote = None;
    let ends = |c: char| {
        match quote {
            Some(q) if c == q => quote = None,
            None if matches!(c, '"' | '\'') => quote = Some(c),
            _ => {}
        }
        c == '\n' || (quote.is_none() && c == ';')
    };
    script.split(ends).map(str::trim).filter(|c| !c.is_empty()).map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_survives_the_loader() {
        let options = Options::parse("console=com1 script=\"xl create hello.cfg; xl list;; poweroff\" debug-exit");
        let Some(Script::Here(script)) = options.script else { panic!() };
        assert_eq!(commands(&script), ["xl create hello.cfg", "xl list", "poweroff"]);
        assert_eq!(Options::parse("script=@a.xl").script, Some(Script::File("a.xl".into())));
        assert!(options.debug_exit);
        assert_eq!(Options::parse("type='xl create -c a.cfg'").type_ahead, ["xl create -c a.cfg"]);
        assert_eq!(Options::parse("quiet"), Options::default());
    }

    #[test]
    fn quotes_hold_words_and_commands_together() {
        assert_eq!(commands("send a 'x; y'; xl list;"), ["send a 'x; y'", "xl list"]);
        assert_eq!(words(r#"a  "b c" d'e f' """#), ["a", "b c", "de f", ""]);
        let list = r#"create a.cfg disk=['phy:a,xvda,w', "x ]"] name='b c' x="[]" [y]"#;
        let wanted = ["create", "a.cfg", r#"disk=['phy:a,xvda,w', "x ]"]"#, "name=b c", "x=[]", "[y]"];
        assert_eq!(words(list), wanted);
    }
}
