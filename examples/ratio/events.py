"""Flat events for `neyman train`: the selection of the htautau example over its embedded H and Z files.

Run it with:  python examples/ratio/events.py
Your own ROOT or Parquet files with one number per event and column need no such step.
"""

from pathlib import Path

from neyman.events import PythonRef, RegionSpec, TableProcessor, Variation, process_files

HERE = Path(__file__).parent
HTAUTAU = HERE.parent / "htautau"
COLUMNS = ("lep_pt", "tau_pt", "met", "m_vis", "mt", "pt_h", "deta", "m_jj")

processor = TableProcessor(
    build=PythonRef.parse("processor.py:build", HTAUTAU),
    variations=(Variation("nominal"),),
    regions={"signal": RegionSpec(columns=COLUMNS)},
    folder=HERE / "out" / "events",
)
files = {name: HTAUTAU / "data" / f"{name}.root" for name in ("htautau", "ztautau")}
for name, result in process_files(files, processor).items():
    print(f"{name}: {result['selected']['signal']['nominal']['n']} of {result['n_events']} events")
