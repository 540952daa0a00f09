//! The syntax of guest configurations: `key = value`, with strings, numbers and lists.

use alloc::{format, string::String, vec::Vec};

use super::{ConfigError, Place};

/// What stands right of the equals sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Quoted text.
    Text(String),
    /// A bare number: decimal, 0x hexadecimal or 0 octal.
    Number(u64),
    /// Values in brackets; lists do not nest.
    List(Vec<Value>),
}

/// One `key = value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Left of the equals sign.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// Right of it.
    pub value: Value,
}

/// Reads all settings of a configuration.
///
/// # Errors
/// [`ConfigError`]: something is no setting, or its value does not end.
pub fn parse(source: &str) -> Result<Vec<Setting>, ConfigError> {
    let mut reader = Reader { rest: source, line: 1, is_word: false };
    let mut settings = Vec::new();
    loop {
        reader.skip(Blank::Lines);
        if reader.rest.is_empty() {
            return Ok(settings);
        }
        let place = reader.place();
        let key = reader.word();
        if key.is_empty() {
            return Err(reader.error(&format!("expected a key, found {}", reader.next_shown())));
        }
        reader.skip(Blank::Spaces);
        if !reader.eat('=') {
            return Err(reader.error(&format!("expected `=` after `{key}`, found {}", reader.next_shown())));
        }
        reader.skip(Blank::Spaces);
        let value = reader.value(key)?;
        settings.push(Setting { key: key.into(), place, value });
        reader.skip(Blank::Spaces);
        if !(reader.rest.is_empty() || reader.eat(';') || reader.rest.starts_with(['\n', '#'])) {
            return Err(reader.error(&format!("unexpected {} after the value of `{key}`", reader.next_shown())));
        }
    }
}

/// Reads a word of the form KEY=VALUE. A prompt takes quotes away, so a value that is neither a number nor in quotes
/// nor a list is text as it stands.
///
/// # Errors
/// [`ConfigError`]: it has no such form, or begins a list or a quote that does not end.
pub fn parse_word(word: &str) -> Result<Setting, ConfigError> {
    let mut reader = Reader { rest: word, line: 1, is_word: true };
    let place = reader.place();
    let Some((key, text)) = word.split_once('=') else {
        return Err(reader.error(&format!("`{word}` is not of the form KEY=VALUE")));
    };
    let (key, text) = (key.trim(), text.trim());
    reader.rest = text;
    let value = match text.chars().next() {
        Some('[' | '"' | '\'') => {
            let value = reader.value(key)?;
            reader.skip(Blank::Lines);
            if !reader.rest.is_empty() {
                return Err(reader.error(&format!("unexpected {} after the value of `{key}`", reader.next_shown())));
            }
            value
        }
        Some('0'..='9') => match reader.number() {
            Ok(number) if reader.rest.is_empty() => number,
            _ => Value::Text(text.into()),
        },
        _ => Value::Text(text.into()),
    };
    Ok(Setting { key: key.into(), place, value })
}

/// What to pass over: within a line, or across lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blank {
    Spaces,
    Lines,
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    /// A word of a command line, not a configuration.
    is_word: bool,
}

impl<'a> Reader<'a> {
    fn place(&self) -> Place {
        if self.is_word { Place::CommandLine } else { Place::Line(self.line) }
    }

    fn error(&self, message: &str) -> ConfigError {
        ConfigError { place: self.place(), message: message.into() }
    }

    fn next_shown(&self) -> String {
        match self.rest.chars().next() {
            None => "the end".into(),
            Some('\n') => "the end of the line".into(),
            Some(c) => format!("`{c}`"),
        }
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = self.rest.get(c.len_utf8()..)?;
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.rest.starts_with(wanted);
        if found {
            self.bump();
        }
        found
    }

    /// Passes over blanks and comments; semicolons and line ends only with [`Blank::Lines`].
    fn skip(&mut self, blank: Blank) {
        while let Some(c) = self.rest.chars().next() {
            match c {
                '\n' | ';' if blank == Blank::Spaces => return,
                '#' => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.rest = self.rest.get(end..).unwrap_or_default();
                }
                ';' => _ = self.bump(),
                c if c.is_whitespace() => _ = self.bump(),
                _ => return,
            }
        }
    }

    fn word(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn value(&mut self, key: &str) -> Result<Value, ConfigError> {
        if !self.eat('[') {
            return self.scalar(key);
        }
        let mut items = Vec::new();
        loop {
            self.skip(Blank::Lines);
            if self.eat(']') {
                return Ok(Value::List(items));
            }
            items.push(self.scalar(key)?);
            self.skip(Blank::Lines);
            if !self.eat(',') && !self.rest.starts_with(']') {
                return Err(self.error(&format!("the list of `{key}` wants `,` or `]`, found {}", self.next_shown())));
            }
        }
    }

    fn scalar(&mut self, key: &str) -> Result<Value, ConfigError> {
        match self.rest.chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote).map(Value::Text),
            Some(c) if c.is_ascii_digit() => self.number(),
            _ => Err(self.error(&format!("`{key}` wants a number or text in quotes, found {}", self.next_shown()))),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, ConfigError> {
        let start = self.place();
        self.bump();
        let mut text = String::new();
        loop {
            match self.bump() {
                Some(c) if c == quote => return Ok(text),
                Some('\n') | None => return Err(ConfigError { place: start, message: "a quote is not closed".into() }),
                Some('\\') if self.rest.starts_with([quote, '\\']) => text.extend(self.bump()),
                Some(c) => text.push(c),
            }
        }
    }

    fn number(&mut self) -> Result<Value, ConfigError> {
        let word = self.word();
        let parsed = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
            Some(hex) => u64::from_str_radix(hex, 16),
            None if word.len() > 1 && word.starts_with('0') => u64::from_str_radix(word, 8),
            None => word.parse(),
        };
        parsed.map(Value::Number).map_err(|_| self.error(&format!("`{word}` is no number")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(s: &str) -> Value {
        Value::Text(s.into())
    }

    #[test]
    fn settings_come_with_their_lines() {
        let parsed =
            parse("# a guest\nname = 'a\\'b' # why\n\nmemory=0x10; vcpus = 2\ndisk = [ 'x',\n \"y\", 010 ,\n]\n");
        let parsed = parsed.unwrap();
        let flat: Vec<_> = parsed.iter().map(|s| (s.key.as_str(), s.place, s.value.clone())).collect();
        let list = Value::List(Vec::from([text("x"), text("y"), Value::Number(8)]));
        assert_eq!(
            flat,
            [
                ("name", Place::Line(2), text("a'b")),
                ("memory", Place::Line(4), Value::Number(16)),
                ("vcpus", Place::Line(4), Value::Number(2)),
                ("disk", Place::Line(5), list)
            ]
        );
    }

    #[test]
    fn slips_are_named_with_their_line() {
        let wrong = [
            ("a = 1\n= 2", 2, "expected a key, found `=`"),
            ("a 1", 1, "expected `=` after `a`, found `1`"),
            ("\n\na = 'x", 3, "a quote is not closed"),
            ("a = x", 1, "`a` wants a number or text in quotes, found `x`"),
            ("a = 1 2", 1, "unexpected `2` after the value of `a`"),
            ("a = [1 2]", 1, "the list of `a` wants `,` or `]`, found `2`"),
            ("a = 12q", 1, "`12q` is no number"),
            ("a = [ 'x',", 1, "`a` wants a number or text in quotes, found the end"),
        ];
        for (source, line, message) in wrong {
            assert_eq!(
                parse(source),
                Err(ConfigError { place: Place::Line(line), message: message.into() }),
                "{source}"
            );
        }
    }

    #[test]
    fn words_need_no_quotes() {
        let value = |word: &str| parse_word(word).map(|setting| setting.value);
        let list = Value::List(Vec::from([text("a,b"), text("c")]));
        for (word, wanted) in [
            ("memory=64", Value::Number(64)),
            ("memory=0x10", Value::Number(16)),
            ("cmdline=ip=10.0.0.1 \"q\"", text("ip=10.0.0.1 \"q\"")),
            ("cpus=0-3", text("0-3")),
            ("ip=10.0.0.2/24", text("10.0.0.2/24")),
            ("name='x y'", text("x y")),
            ("name=", text("")),
            ("disk=['a,b', \"c\"]", list),
            ("disk=[]", Value::List(Vec::new())),
        ] {
            assert_eq!(value(word).unwrap(), wanted, "{word}");
        }
        for (word, message) in [
            ("memory", "`memory` is not of the form KEY=VALUE"),
            ("disk=[a]", "`disk` wants a number or text in quotes, found `a`"),
            ("disk=['a'] x", "unexpected `x` after the value of `disk`"),
            ("name='x", "a quote is not closed"),
        ] {
            let wrong = ConfigError { place: Place::CommandLine, message: message.into() };
            assert_eq!(value(word), Err(wrong), "{word}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(source in "[a-c=\\[\\]'\"\\\\,;#\n 0-9äx]*") {
            let _ = parse(&source);
            let _ = parse_word(&source);
        }
    }
}
