//! The syntax of guest configurations: `key = value`, with strings, numbers and lists.

use alloc::{format, string::String, vec::Vec};

use super::ConfigError;

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
    /// Where the key stands, from 1.
    pub line: usize,
    /// Right of it.
    pub value: Value,
}

/// Reads all settings of a configuration.
///
/// # Errors
/// [`ConfigError`]: something is no setting, or its value does not end.
pub fn parse(source: &str) -> Result<Vec<Setting>, ConfigError> {
    let mut reader = Reader { rest: source, line: 1 };
    let mut settings = Vec::new();
    loop {
        reader.skip(Blank::Lines);
        if reader.rest.is_empty() {
            return Ok(settings);
        }
        let line = reader.line;
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
        settings.push(Setting { key: key.into(), line, value });
        reader.skip(Blank::Spaces);
        if !(reader.rest.is_empty() || reader.eat(';') || reader.rest.starts_with(['\n', '#'])) {
            return Err(reader.error(&format!("unexpected {} after the value of `{key}`", reader.next_shown())));
        }
    }
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
}

impl<'a> Reader<'a> {
    fn error(&self, message: &str) -> ConfigError {
        ConfigError { line: self.line, message: message.into() }
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
        let start = self.line;
        self.bump();
        let mut text = String::new();
        loop {
            match self.bump() {
                Some(c) if c == quote => return Ok(text),
                Some('\n') | None => return Err(ConfigError { line: start, message: "a quote is not closed".into() }),
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
        let flat: Vec<_> = parsed.iter().map(|s| (s.key.as_str(), s.line, s.value.clone())).collect();
        let list = Value::List(Vec::from([text("x"), text("y"), Value::Number(8)]));
        assert_eq!(
            flat,
            [
                ("name", 2, text("a'b")),
                ("memory", 4, Value::Number(16)),
                ("vcpus", 4, Value::Number(2)),
                ("disk", 5, list)
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
            assert_eq!(parse(source), Err(ConfigError { line, message: message.into() }), "{source}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(source in "[a-c=\\[\\]'\"\\\\,;#\n 0-9äx]*") {
            let _ = parse(&source);
        }
    }
}
