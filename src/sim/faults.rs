//! Which fault is in force for a model now: its name's, or the one set at run time, as long as its count lasts.

use super::fault::{Fault, Refusal};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Bound on models with a fault of their own or a count.
const MAX_MODELS: usize = 4096;
/// Stands for every model without a fault of its own.
const ANY: &str = "*";

#[derive(Debug, Default)]
struct Tables {
    /// The fault and its name, by model.
    set: BTreeMap<String, (Fault, String)>,
    /// Calls of models whose fault counts them.
    calls: BTreeMap<String, u32>,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    tables: Mutex<Tables>,
}

impl Faults {
    /// # Errors
    /// There is no such fault, or too many are set.
    pub(super) fn set(&self, model: &str, fault: &str) -> Result<(), String> {
        let named = Fault::named(fault).ok_or_else(|| format!("there is no fault {fault:?}"))?;
        let mut tables = self.tables.lock();
        if tables.set.len() >= MAX_MODELS && !tables.set.contains_key(model) {
            return Err("too many faults are set".into());
        }
        tables.calls.remove(model);
        tables.set.insert(model.to_owned(), (named, fault.to_owned()));
        Ok(())
    }

    /// Only the names count again, from zero.
    pub(super) fn clear(&self) {
        *self.tables.lock() = Tables::default();
    }

    pub(super) fn list(&self) -> BTreeMap<String, String> {
        self.tables.lock().set.iter().map(|(model, (_, name))| (model.clone(), name.clone())).collect()
    }

    /// The fault of this call, which is counted. One set for the key (by its last four characters) goes first.
    pub(super) fn of_call(&self, model: &str, key_tail: &str) -> Fault {
        let mut tables = self.tables.lock();
        let of_key = if tables.set.is_empty() { None } else { tables.set.get(&format!("key:{key_tail}")) };
        let set = of_key.or_else(|| tables.set.get(model)).or_else(|| tables.set.get(ANY)).map(|(fault, _)| *fault);
        let fault = set.unwrap_or_else(|| Fault::of_model(model));
        let Fault::Refuse(Refusal { first_calls: Some(first), .. }) = fault else { return fault };
        if tables.calls.len() >= MAX_MODELS && !tables.calls.contains_key(model) {
            tables.calls.pop_first();
        }
        let calls = tables.calls.entry(model.to_owned()).or_default();
        *calls = calls.saturating_add(1);
        if *calls > first { Fault::Ok } else { fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses(faults: &Faults, model: &str) -> bool {
        matches!(faults.of_call(model, ""), Fault::Refuse(_))
    }

    #[test]
    fn counts_are_per_model_and_end() {
        let faults = Faults::default();
        for model in ["error-500-2", "x/error-500-2"] {
            assert_eq!([(); 4].map(|()| refuses(&faults, model)), [true, true, false, false], "{model}");
        }
        faults.clear();
        assert!(refuses(&faults, "error-500-2"));
    }

    #[test]
    fn what_is_set_goes_before_the_name() {
        let faults = Faults::default();
        faults.set("hang", "ok").unwrap();
        faults.set(ANY, "empty").unwrap();
        assert_eq!((faults.of_call("hang", ""), faults.of_call("gpt-4.1", "")), (Fault::Ok, Fault::Empty));
        assert!(faults.set("m", "nonsense").is_err());
        faults.set("m", "429-once").unwrap();
        assert!(refuses(&faults, "m") && !refuses(&faults, "m"));
        faults.set("m", "429-once").unwrap();
        assert!(refuses(&faults, "m"), "setting it again begins anew");
        faults.clear();
        assert_eq!(faults.of_call("hang", ""), Fault::Hang);
    }
}
