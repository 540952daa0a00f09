//! What each primitive may cost: figures in a file of the repository, which a measurement is held against.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::{Medians, number};

/// The file, from the workspace's root.
pub(super) const FILE: &str = "tools/budget.txt";

const HEAD: &str = "\
# What each primitive of `cargo xtask bench` may cost, in instructions: no more than one percent above this figure.
# `cargo xtask bench --set-budget` writes what it measures.
";

/// How far above its figure a row may be: builds differ by an instruction here and there.
const TOLERANCE: f64 = 1.01;

/// Instructions by the primitive's name.
#[derive(Debug, PartialEq)]
pub(super) struct Budget(BTreeMap<String, f64>);

impl Budget {
    /// Reads the file's text: a name and a figure a line.
    ///
    /// # Errors
    /// Fails for a line that is something else.
    pub(super) fn read(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let row = |line: &str| {
            let (name, figure) = line.split_once(' ')?;
            Some((name.to_owned(), figure.trim().parse().ok()?))
        };
        let rows = lines.map(|line| row(line).with_context(|| format!("{FILE}: no name and figure: `{line}`")));
        Ok(Self(rows.collect::<Result<_>>()?))
    }

    /// The file's text for what was measured.
    pub(super) fn text(measured: &Medians) -> String {
        measured.iter().fold(HEAD.to_owned(), |text, (name, median)| format!("{text}{name} {}\n", number(*median)))
    }

    /// Holds what was measured against it.
    ///
    /// # Errors
    /// Fails when a row is above its figure, has none, or was not measured; names them all.
    pub(super) fn hold(&self, measured: &Medians) -> Result<()> {
        let of_budget = self.0.iter().filter_map(|(name, budget)| match measured.get(name) {
            None => Some(format!("{name}: not measured")),
            Some(median) if *median > budget * TOLERANCE => {
                let above = (median / budget - 1.0) * 100.0;
                Some(format!("{name}: {} instead of {}, {above:.1} % more", number(*median), number(*budget)))
            }
            Some(_) => None,
        });
        let unknown =
            measured.keys().filter(|name| !self.0.contains_key(*name)).map(|name| format!("{name}: no budget"));
        let rows: Vec<String> = of_budget.chain(unknown).collect();
        ensure!(rows.is_empty(), "above the budget of {FILE}:\n  {}", rows.join("\n  "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Medians};

    fn medians(rows: &[(&str, f64)]) -> Medians {
        rows.iter().map(|(name, median)| ((*name).to_owned(), *median)).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let measured = medians(&[("null_hypercall", 74.0), ("multicall_null", 45.5)]);
        let budget = Budget::read(&Budget::text(&measured)).unwrap();
        assert_eq!(budget.0, measured);
        assert!(budget.hold(&measured).is_ok());
        assert!(Budget::read("null_hypercall\n").is_err());
        assert!(Budget::read("null_hypercall few\n").is_err());
    }

    #[test]
    fn a_row_may_cost_one_percent_more_and_no_more_than_that() {
        let budget = Budget::read("# a comment\n\nnew_baseptr 300\nrdmsr 300\n").unwrap();
        assert!(budget.hold(&medians(&[("new_baseptr", 303.0), ("rdmsr", 12.0)])).is_ok());
        let error = budget.hold(&medians(&[("new_baseptr", 304.0), ("rdmsr", 300.0)])).unwrap_err().to_string();
        assert!(error.contains("new_baseptr: 304 instead of 300, 1.3 % more"), "{error}");
        assert!(!error.contains("rdmsr"), "{error}");
    }

    #[test]
    fn a_row_that_is_not_measured_or_has_no_budget_is_named() {
        let budget = Budget::read("new_baseptr 300\n").unwrap();
        let error = budget.hold(&medians(&[("extra", 1.0)])).unwrap_err().to_string();
        assert!(error.contains("new_baseptr: not measured") && error.contains("extra: no budget"), "{error}");
    }
}
