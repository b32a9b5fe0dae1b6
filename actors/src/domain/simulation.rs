//! A model that is none: what the engine's simulated backend plays, for chaos on machines too small for a real one. Written
//! where a model's name would stand: `sim`, or `sim:tokens_per_second=50,tokens=60`.

use std::{fmt, str::FromStr};

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Simulation {
    /// Of each sequence, however many there are.
    pub tokens_per_second: f64,
    pub prompt_tokens_per_second: f64,
    /// Of a whole answer; a request's own cap may cut it.
    pub tokens: u32,
    pub load_ms: u32,
}

impl Default for Simulation {
    fn default() -> Self {
        Self { tokens_per_second: 50.0, prompt_tokens_per_second: 5000.0, tokens: 60, load_ms: 200 }
    }
}

impl Simulation {
    /// What clients call its model.
    pub const MODEL: &'static str = "simulated";

    /// Whether a text wants to be one.
    pub fn is_meant_by(text: &str) -> bool {
        text == "sim" || text.starts_with("sim:")
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let rate = || {
            let rate = value.parse::<f64>().ok().filter(|rate| (0.1..=1e6).contains(rate));
            rate.ok_or_else(|| format!("{key} must be 0.1 to 1000000"))
        };
        let count = |most: u32| {
            let count = value.parse::<u32>().ok().filter(|count| *count <= most);
            count.ok_or_else(|| format!("{key} must be 0 to {most}"))
        };
        match key {
            "tokens_per_second" => self.tokens_per_second = rate()?,
            "prompt_tokens_per_second" => self.prompt_tokens_per_second = rate()?,
            "tokens" => self.tokens = count(50_000)?.max(1),
            "load_ms" => self.load_ms = count(60_000)?,
            _ => {
                return Err(format!(
                    "`{key}` is unknown; known: tokens_per_second, prompt_tokens_per_second, tokens, load_ms"
                ));
            }
        }
        Ok(())
    }
}

impl FromStr for Simulation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut simulation = Self::default();
        let parts = text.strip_prefix("sim").ok_or("must begin with sim")?;
        let parts = parts.strip_prefix(':').unwrap_or(parts).split(',').map(str::trim).filter(|part| !part.is_empty());
        for part in parts {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is no KEY=VALUE"))?;
            simulation.set(key.trim(), value.trim())?;
        }
        Ok(simulation)
    }
}

impl fmt::Display for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens/s for each request, {} tokens an answer", self.tokens_per_second, self.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_is_read_as_it_is_written() {
        assert_eq!("sim".parse(), Ok(Simulation::default()));
        let written = "sim:tokens_per_second=20.5, tokens=8,load_ms=0,prompt_tokens_per_second=100";
        let read = Simulation { tokens_per_second: 20.5, prompt_tokens_per_second: 100.0, tokens: 8, load_ms: 0 };
        assert_eq!(written.parse(), Ok(read));
        for (bad, why) in [
            ("sim:tokens", "`tokens` is no KEY=VALUE"),
            ("sim:tokens_per_second=0", "tokens_per_second must be 0.1 to 1000000"),
            ("sim:tokens_per_second=NaN", "tokens_per_second must be 0.1 to 1000000"),
            ("sim:load_ms=60001", "load_ms must be 0 to 60000"),
        ] {
            assert_eq!(bad.parse::<Simulation>(), Err(why.to_owned()));
        }
        assert!("sim:speed=1".parse::<Simulation>().unwrap_err().starts_with("`speed` is unknown"));
        assert!(Simulation::is_meant_by("sim:x=1") && !Simulation::is_meant_by("simple.gguf"));
    }
}
