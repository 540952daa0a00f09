//! What guests do in each scenario.

/// A guest: a name, MiB at the start, and what `hog` is told.
struct Guest(&'static str, u32, &'static str);

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Two guests of equal shares, one idle, one busy; the tax goes from 0 to 75 % (VMware ESX's experiment)
    EsxTax,
    /// One of four guests wants more and more memory (the first of Georgia Tech's CS6210)
    OneConsumes,
    /// All four want more and more (the second)
    AllConsume,
    /// Two want more and more, then one of them lets go of all that it holds (the third)
    OneStops,
    /// One of four guests wants much memory for some seconds
    Burst,
}

/// Most that each guest may have, in MiB.
const MAXIMUM: u32 = 340;

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::EsxTax, Self::OneConsumes, Self::AllConsume, Self::OneStops, Self::Burst];

    /// As people type it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EsxTax => "esx-tax",
            Self::OneConsumes => "one-consumes",
            Self::AllConsume => "all-consume",
            Self::OneStops => "one-stops",
            Self::Burst => "burst",
        }
    }

    /// Virtual seconds that it takes.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        match self {
            Self::EsxTax => 60,
            Self::OneStops | Self::Burst => 80,
            Self::OneConsumes | Self::AllConsume => 50,
        }
    }

    /// The second in which what the guests do, or the policy, changes for the last time.
    #[must_use]
    pub const fn last_change(self) -> u32 {
        match self {
            Self::EsxTax => TAX_AT,
            Self::OneStops | Self::Burst => STOP_AT,
            // When the memory that there is has been taken.
            Self::OneConsumes | Self::AllConsume => 25,
        }
    }

    const fn policy(self) -> &'static str {
        match self {
            Self::EsxTax => "idle-tax=0",
            Self::OneConsumes | Self::AllConsume | Self::OneStops | Self::Burst => "working-set",
        }
    }

    const fn guests(self) -> &'static [Guest] {
        const REST: &str = "limit=4";
        match self {
            Self::EsxTax => &[Guest("idle", 64, "use=0"), Guest("busy", 64, "use=100")],
            Self::OneConsumes => {
                &[Guest("a", 64, "step=2"), Guest("b", 64, REST), Guest("c", 64, REST), Guest("d", 64, REST)]
            }
            Self::AllConsume => &[
                Guest("a", 64, "step=2"),
                Guest("b", 64, "step=2"),
                Guest("c", 64, "step=2"),
                Guest("d", 64, "step=2"),
            ],
            Self::OneStops => &[
                Guest("a", 64, "step=2"),
                Guest("b", 64, "step=2 stop=40"),
                Guest("c", 64, REST),
                Guest("d", 64, REST),
            ],
            Self::Burst => {
                &[Guest("a", 64, "step=16 stop=40"), Guest("b", 64, REST), Guest("c", 64, REST), Guest("d", 64, REST)]
            }
        }
    }

    /// What dom0 is told: the guests begin, a policy decides every second, and each second is told of.
    pub(super) fn script(self, policy: Option<&str>) -> String {
        let mut script = String::new();
        for Guest(name, memory, told) in self.guests() {
            script += &format!("xl create hog.cfg name={name} memory={memory} maxmem={MAXIMUM} 'extra={told}'\n");
        }
        script += &format!("xl balloon policy {} 1\n", policy.unwrap_or(self.policy()));
        for second in 0..self.seconds() {
            if self == Self::EsxTax && second == TAX_AT && policy.is_none() {
                script += "xl balloon policy idle-tax=75 1\n";
            }
            script += "xl balloon\nsleep 1\n";
        }
        script += "xl balloon\n";
        for Guest(name, ..) in self.guests() {
            script += &format!("xl destroy {name}\n");
        }
        script + "poweroff\n"
    }
}

/// The second in which the tax is raised.
const TAX_AT: u32 = 20;
/// The second in which a guest lets go, counted from its own start.
const STOP_AT: u32 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_have_a_table_for_each_second_and_end() {
        for scenario in Scenario::ALL {
            let script = scenario.script(None);
            let tables = script.lines().filter(|line| *line == "xl balloon").count();
            assert_eq!(tables, scenario.seconds() as usize + 1);
            assert!(script.ends_with("poweroff\n") && scenario.last_change() < scenario.seconds());
        }
        assert!(Scenario::EsxTax.script(Some("shares")).contains("policy shares 1"));
        assert!(!Scenario::EsxTax.script(Some("shares")).contains("idle-tax"));
    }
}
