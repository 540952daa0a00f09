//! What the command line asks of the defences.

/// How the history of branches is overwritten, where the CPU cannot be told to keep it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clearing {
    /// As often as CPUs before Alder Lake remember.
    Short,
    /// As often as any CPU remembers.
    Long,
}

impl Clearing {
    /// Rounds, and branches in each, of the sequence that Intel's document on branch history injection gives.
    #[must_use]
    pub const fn rounds(self) -> [u32; 2] {
        match self {
            Self::Short => [5, 5],
            Self::Long => [12, 7],
        }
    }
}

/// What the command line asks, in the words of `spec-ctrl=`, `xpti=` and `pv-l1tf=`. `None`: what the CPU needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// `msr-sc=`: guests have a `SPEC_CTRL` of their own.
    pub guests_control: Option<bool>,
    /// `rsb=`: the stack of return predictions is filled on the way in.
    pub returns: Option<bool>,
    /// `verw=`, of old `md-clear=`: buffers are overwritten on the way out.
    pub buffers: Option<bool>,
    /// `ibpb-entry=`: predictions are forgotten on the way in.
    pub entry_barrier: Option<bool>,
    /// `bhb-entry=`: the history of branches is overwritten on the way in.
    pub history: Option<bool>,
    /// `bhb-seq=`: how.
    pub clearing: Option<Clearing>,
    /// `bhi-dis-s=`: the CPU keeps the history apart.
    pub history_apart: Option<bool>,
    /// `ibrs=`.
    pub ibrs: Option<bool>,
    /// `stibp=`.
    pub stibp: Option<bool>,
    /// `ibpb=`: predictions are forgotten between guests.
    pub switch_barrier: Option<bool>,
    /// `ssbd=`: for everybody.
    pub ssbd: Option<bool>,
    /// `psfd=`: for everybody.
    pub psfd: Option<bool>,
    /// `unpriv-mmio=`: guests without privilege have devices, behind which they can look.
    pub has_devices: bool,
    /// `gds-mit=`: gathered loads stay guarded.
    pub gathers: Option<bool>,
    /// `div-scrub=`: the divider's last quotient is overwritten on the way out.
    pub divider: Option<bool>,
    /// `xpti=`, for the control domain and for others.
    pub apart: [Option<bool>; 2],
    /// `pv-l1tf=`, for the control domain and for others.
    pub l1tf: [Option<bool>; 2],
}

impl Choices {
    /// `spec-ctrl=no`: nothing, nor what guests would need to defend themselves.
    pub fn refuse_all(&mut self) {
        self.refuse_own();
        self.guests_control = Some(false);
        for asked in self.l1tf.iter_mut().chain(&mut self.apart) {
            asked.get_or_insert(false);
        }
    }

    /// `spec-ctrl=no-xen`: nothing for the hypervisor's own sake.
    pub const fn refuse_own(&mut self) {
        let Self { guests_control, clearing, apart, l1tf, .. } = *self;
        let no = Some(false);
        *self = Self {
            guests_control,
            returns: no,
            buffers: no,
            entry_barrier: no,
            history: no,
            clearing,
            history_apart: no,
            ibrs: no,
            stibp: no,
            switch_barrier: no,
            ssbd: no,
            psfd: no,
            has_devices: false,
            gathers: no,
            divider: no,
            apart,
            l1tf,
        };
    }

    /// `pv=`: all that is done for guests, which are all of one kind.
    pub const fn set_all_ways(&mut self, wanted: bool) {
        let wanted = Some(wanted);
        self.guests_control = wanted;
        self.returns = wanted;
        self.buffers = wanted;
        self.entry_barrier = wanted;
        self.history = wanted;
    }
}
