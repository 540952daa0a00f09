//! What dom0's tables said, second by second.

use anyhow::{Context, Result, ensure};

/// A guest in one second; memory in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// What it has.
    pub has: u32,
    /// Where it was told to go.
    pub target: u32,
    /// Percent of its memory that it uses, where that is known.
    pub used: Option<u32>,
}

/// All guests in all seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Their names.
    pub guests: Vec<String>,
    /// Of each second the guests, in the order of their names' list.
    pub seconds: Vec<Vec<Point>>,
}

impl Series {
    /// Reads the tables of `xl balloon` out of what was said.
    ///
    /// # Errors
    /// Fails where there is none, or where they tell of different guests.
    pub(super) fn read(transcript: &str) -> Result<Self> {
        let mut series = Self { guests: Vec::new(), seconds: Vec::new() };
        let mut lines = transcript.lines();
        while let Some(line) = lines.next() {
            if !(line.starts_with("Name ") && line.ends_with("Balloon")) {
                continue;
            }
            let rows: Vec<(&str, Point)> = lines.clone().map_while(row).collect();
            let names: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
            if series.guests.is_empty() {
                series.guests = names.iter().map(|name| (*name).to_owned()).collect();
            }
            ensure!(series.guests == names, "one table tells of {:?}, another of {names:?}", series.guests);
            series.seconds.push(rows.into_iter().map(|(_, point)| point).collect());
        }
        ensure!(!series.guests.is_empty(), "no table was printed");
        Ok(series)
    }

    /// A guest's number in the lists.
    ///
    /// # Errors
    /// There is no such guest.
    pub fn number_of(&self, guest: &str) -> Result<usize> {
        self.guests.iter().position(|name| name == guest).with_context(|| format!("no guest `{guest}`"))
    }

    /// What a guest has in a second, in MiB.
    ///
    /// # Errors
    /// There is no such guest, or no such second.
    pub fn has(&self, guest: &str, second: usize) -> Result<u32> {
        let points = self.seconds.get(second).with_context(|| format!("nothing was seen in second {second}"))?;
        Ok(points.get(self.number_of(guest)?).context("a short table")?.has)
    }

    /// The first second from which on no guest's memory moves by more than `slack` MiB; `None` if that never comes.
    #[must_use]
    pub fn settles(&self, slack: u32) -> Option<usize> {
        let last = self.seconds.last()?;
        let is_near =
            |points: &&Vec<Point>| points.iter().zip(last).all(|(one, end)| one.has.abs_diff(end.has) <= slack);
        let near = self.seconds.iter().rev().take_while(is_near).count();
        // One second alone says nothing.
        (near > 1).then(|| self.seconds.len() - near)
    }

    /// A table of every fifth second.
    pub(super) fn table(&self) -> String {
        let mut text = String::from("second");
        for name in &self.guests {
            text += &format!("  {:>22}", format!("{name}: MiB/target/used"));
        }
        text.push('\n');
        for (second, points) in self.seconds.iter().enumerate().step_by(5) {
            text += &format!("{second:>6}");
            for Point { has, target, used } in points {
                let used = used.map_or_else(|| "-".to_owned(), |used| format!("{used}%"));
                text += &format!("  {:>22}", format!("{has}/{target}/{used}"));
            }
            text.push('\n');
        }
        text
    }

    /// A line for each guest in each second.
    pub(super) fn csv(&self) -> String {
        let mut text = String::from("second,guest,mib,target_mib,used_percent\n");
        for (second, points) in self.seconds.iter().enumerate() {
            for (name, Point { has, target, used }) in self.guests.iter().zip(points) {
                let used = used.map_or_else(String::new, |used| used.to_string());
                text += &format!("{second},{name},{has},{target},{used}\n");
            }
        }
        text
    }
}

/// A guest's line.
fn row(line: &str) -> Option<(&str, Point)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let [_, has, target, _] = [(); 4].map(|()| words.next().and_then(|word| word.parse().ok()));
    let used = words.next()?.parse().ok();
    Some((name, Point { has: has?, target: target?, used }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = "dom0# xl balloon\n\
        Name                                ID      Mem   Target  Maximum  Used(%)  Balloon\n\
        idle                                 1       64       32      340        -  moving\n\
        busy                                 2       64       96      340       95  moving\n\
        dom0# sleep 1\ndom0# xl balloon\n\
        Name                                ID      Mem   Target  Maximum  Used(%)  Balloon\n\
        idle                                 1       32       32      340        0  there\n\
        busy                                 2       96       96      340       95  there\n\
        dom0# poweroff\n";

    #[test]
    fn tables_become_points() {
        let series = Series::read(TABLES).unwrap();
        assert_eq!(series.guests, ["idle", "busy"]);
        assert_eq!(series.seconds[0][1], Point { has: 64, target: 96, used: Some(95) });
        assert_eq!((series.seconds[0][0].used, series.has("idle", 1).unwrap()), (None, 32));
        assert!(series.has("idle", 2).is_err() && series.has("who", 0).is_err());
        assert_eq!(series.csv().lines().nth(3), Some("1,idle,32,32,0"));
        assert!(series.table().contains("64/32/-"));
        assert!(Series::read("dom0# nothing\n").is_err());
    }

    #[test]
    fn it_has_settled_when_nothing_moves_any_more() {
        let series = Series::read(TABLES).unwrap();
        assert_eq!((series.settles(5), series.settles(32)), (None, Some(0)));
        let longer =
            Series { seconds: [series.seconds.clone(), vec![series.seconds[1].clone(); 3]].concat(), ..series };
        assert_eq!(longer.settles(5), Some(1));
    }
}
