//! Reads the description of a picture, and judges whether everything has room.

use anyhow::{Context, Result, bail, ensure};

use super::{CHARACTER, Heads, Kind, LINE, Part, Rect, UNIT};

/// What a description says.
#[derive(Clone, Debug)]
pub struct Picture {
    pub(super) title: String,
    pub(super) width: f32,
    pub(super) height: f32,
    pub(super) parts: Vec<Part>,
}

/// Reads a description.
///
/// # Errors
/// Fails, naming the line, where a word is not understood, a name is unknown or given twice, or something has no room.
pub fn parse(text: &str) -> Result<Picture> {
    let mut picture = Picture { title: String::new(), width: 0.0, height: 0.0, parts: Vec::new() };
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        picture.take(&mut Words { rest: line }).with_context(|| format!("line {number}")).map_err(joined)?;
    }
    ensure!(!picture.title.is_empty(), "there is no title");
    Ok(picture)
}

/// One message of an error and its causes.
fn joined(error: anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

/// What is left of a line.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn word(&mut self) -> Result<&'a str> {
        let rest = self.rest.trim_start();
        ensure!(!rest.is_empty(), "something is missing at the line's end");
        let (word, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        self.rest = rest;
        Ok(word)
    }

    fn number(&mut self) -> Result<f32> {
        let word = self.word()?;
        let number = word.parse::<f32>().ok().filter(|number| number.is_finite());
        number.with_context(|| format!("`{word}` is no number"))
    }

    fn kind(&mut self) -> Result<Kind> {
        let word = self.word()?;
        Kind::of(word).with_context(|| format!("no kind `{word}`"))
    }

    fn rect(&mut self) -> Result<Rect> {
        Ok(Rect { x: self.number()?, y: self.number()?, width: self.number()?, height: self.number()? })
    }

    fn text(&self) -> String {
        self.rest.trim().to_owned()
    }
}

impl Picture {
    fn take(&mut self, words: &mut Words<'_>) -> Result<()> {
        match words.word()? {
            "title" => self.title = words.text(),
            "size" => (self.width, self.height) = (words.number()?, words.number()?),
            "area" => {
                let (kind, rect, text) = (words.kind()?, words.rect()?, words.text());
                self.has_room(rect)?;
                fits(&text, rect.width, rect.height)?;
                self.parts.push(Part::Area { kind, rect, text });
            }
            "box" => {
                let (name, kind, rect, text) = (words.word()?, words.kind()?, words.rect()?, words.text());
                self.thing(name.to_owned(), kind, rect, text)?;
            }
            shape @ ("cells" | "row") => {
                let (name, kind) = (words.word()?, words.kind()?);
                let (mut x, mut y, width) = (words.number()?, words.number()?, words.number()?);
                for (index, text) in words.rest.split('|').enumerate() {
                    let rect = Rect { x, y, width, height: 1.0 };
                    self.thing(format!("{name}.{index}"), kind, rect, text.trim().to_owned())?;
                    if shape == "cells" { y += 1.0 } else { x += width }
                }
            }
            "arrow" => self.arrow(words, Heads::One)?,
            "both" => self.arrow(words, Heads::Both)?,
            "line" => self.arrow(words, Heads::None)?,
            "dashed" => self.arrow(words, Heads::Dashed)?,
            "note" => {
                let (x, y, text) = (words.number()?, words.number()?, words.text());
                fits(&text, self.width - x, self.height)?;
                self.parts.push(Part::Note { x, y, text });
            }
            other => bail!("no such part `{other}`"),
        }
        Ok(())
    }

    fn thing(&mut self, name: String, kind: Kind, rect: Rect, text: String) -> Result<()> {
        ensure!(self.rect_of(&name).is_err(), "`{name}` is there already");
        self.has_room(rect)?;
        fits(&text, rect.width, rect.height)?;
        self.parts.push(Part::Thing { name, kind, rect, text });
        Ok(())
    }

    fn arrow(&mut self, words: &mut Words<'_>, heads: Heads) -> Result<()> {
        let (from, to) = (self.rect_of(words.word()?)?, self.rect_of(words.word()?)?);
        self.parts.push(Part::Arrow { from, to, heads, text: words.text() });
        Ok(())
    }

    fn rect_of(&self, wanted: &str) -> Result<Rect> {
        let found = self.parts.iter().find_map(|part| match part {
            Part::Thing { name, rect, .. } if name == wanted => Some(*rect),
            _ => None,
        });
        found.with_context(|| format!("there is no `{wanted}`"))
    }

    fn has_room(&self, rect: Rect) -> Result<()> {
        let is_inside = rect.x >= 0.0 && rect.y >= 0.0 && rect.right() <= self.width && rect.bottom() <= self.height;
        ensure!(is_inside, "beyond the picture, which is {} by {}", self.width, self.height);
        Ok(())
    }
}

/// The lines of a text.
pub(super) fn lines(text: &str) -> Vec<&str> {
    text.split(" / ").map(str::trim).collect()
}

/// Pixels that a line takes.
pub(super) fn width(line: &str) -> f32 {
    f32::from(u16::try_from(line.chars().count()).unwrap_or(u16::MAX)) * CHARACTER
}

fn fits(text: &str, room: f32, height: f32) -> Result<()> {
    let lines = lines(text);
    let widest = lines.iter().map(|line| width(line)).fold(0.0, f32::max);
    ensure!(widest <= room * UNIT - 2.0, "the text is wider than its place: `{text}`");
    let high = f32::from(u16::try_from(lines.len()).unwrap_or(u16::MAX)) * LINE;
    ensure!(high <= height * UNIT, "the text is higher than its place: `{text}`");
    Ok(())
}
