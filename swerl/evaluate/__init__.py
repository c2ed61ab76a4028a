"""Scoring a policy (`swerl eval`) and sampling from it (`swerl infer`), on the executor that training uses.

Contract
- Same gateway, same runner, same outcome table, same journal. Only the engine differs: a plain vLLM server that the supervisor starts for
  a checkpoint of ours or a Hugging Face directory, or an OpenAI-compatible URL that somebody else serves.
- An evaluation is a run: a directory under ``experiment.runs_dir`` with lock, registry row, events and logs; killed anywhere, the same
  command goes on. A trial is named by (split, task, sample, version of the weights), so what has settled is not run again, and another
  checkpoint under the same name is another set of trials.
- Ungraded is not 0: a rate is of graded trials and is published with its coverage, its interval, and the share of trials the
  infrastructure lost.

Modules: ``policies`` (what is scored), ``order`` (what was asked for), ``engine`` (vLLM as a supervised process), ``upstream`` (a URL
behind the gateway's surface), ``__main__`` and ``drive`` (the trials), ``report`` (numbers), ``harvest`` (trajectories and filtered index),
``launch`` (the supervised whole).
"""
