#!/usr/bin/env python3
"""Writes tests/data/text/programs.json: small templates, and what Jinja2 makes of them, set up as transformers sets it up.

    python3 -m venv VENV && VENV/bin/pip install jinja2==3.1.6 && VENV/bin/python tools/make_template_programs.py
"""
import json
import pathlib

import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

VARIABLES = {"d": {"b": 2, "a": 1, "C": 0},
 "l": ["b", "A", "c", "a", "B"],
 "n": [3, 1, 2, 1, True, 1.0],
 "rows": [{"k": "b", "v": 2, "p": {"q": 1}},
          {"k": "A", "v": 1, "p": {"q": 0}},
          {"k": "a", "v": 3, "p": {"q": 2}},
          {"k": "B", "v": 2, "p": {"q": 1}}],
 "e": "",
 "z": 0,
 "pairs": [["x", 1], ["y", 2]],
 "mixed": [1, "a"],
 "t": "hello"}

PROGRAMS = [
    "{{ nope|default('x') }}|{{ e|default('x') }}|{{ e|default('x', true) }}|{{ e|default('x', boolean=true) }}|{{ e|d('y',boolean=True) }}|{{ nope|default }}|{{ z|default(default_value=5, boolean=true) }}",
    "{{ e|default('x', true, 3) }}",
    '{{ d|dictsort }}',
    '{{ d|dictsort(true) }}',
    "{{ d|dictsort(false,'value') }}",
    "{{ d|dictsort(by='value',reverse=true) }}",
    "{{ d|dictsort(true,'key',true) }}",
    "{{ d|dictsort(by='x') }}",
    '{{ l|dictsort }}',
    '{% for k,v in d|dictsort(reverse=true) %}{{k}}={{v}};{% endfor %}',
    '{{ l|sort }}',
    '{{ l|sort(true) }}',
    '{{ l|sort(true,true) }}',
    '{{ l|sort(case_sensitive=true) }}',
    '{{ n|sort }}',
    '{{ n|sort(reverse=true) }}',
    "{{ rows|sort(attribute='k')|map(attribute='k')|list }}",
    "{{ rows|sort(attribute='v,k')|map(attribute='k')|list }}",
    "{{ rows|sort(false,true,'k')|map(attribute='k')|list }}",
    "{{ rows|sort(attribute='p.q',reverse=true)|map(attribute='k')|list }}",
    '{{ mixed|sort }}',
    '{{ pairs|sort(attribute=1,reverse=true) }}',
    "{{ pairs|sort(attribute='1',reverse=true) }}",
    '{{ [1]|sort }}',
    '{{ [d]|sort }}',
    '{{ [d,d]|sort }}',
    "{{ [[2,'a'],[1,'B'],[1,'a']]|sort }}",
    "{{ rows|sort(attribute='none')|length }}",
    '{{ t|sort }}',
    '{{ d|sort }}',
    '{{ [none,none]|sort }}',
    '{{ l|sort(bogus=1) }}',
    '{{ l|unique|list }}',
    '{{ l|unique(true)|list }}',
    '{{ n|unique|list }}',
    "{{ rows|unique(attribute='v')|map(attribute='k')|list }}",
    "{{ rows|unique(false,'k')|map(attribute='k')|list }}",
    '{{ [[1],[1]]|unique|list }}',
    '{{ [(1,),(1,)]|unique|list }}',
    "{{ 'abca'|unique|join }}",
    "{{ l|min }}|{{ l|max }}|{{ l|min(true) }}|{{ l|max(case_sensitive=true) }}|{{ n|min }}|{{ n|max }}|{{ []|min }}|{{ rows|max(attribute='v') }}|{{ rows|min(attribute='p.q') }}",
    "{% for g in rows|groupby('v') %}{{ g.grouper }}:{{ g.list|map(attribute='k')|join(',') }};{% endfor %}",
    "{% for g, i in rows|groupby('k') %}{{ g }}:{{ i|map(attribute='v')|join(',') }};{% endfor %}",
    "{% for g, i in rows|groupby('k', case_sensitive=true) %}{{ g }}:{{ i|map(attribute='v')|join(',') }};{% endfor %}",
    "{% for g, i in rows|groupby('zz', default='?') %}{{ g }}:{{ i|length }};{% endfor %}",
    "{{ rows|groupby('p.q') }}",
    "{{ rows|groupby(attribute='v')|length }}",
    "{{ (rows|groupby('v'))[0][0] }}",
    "{% for g, i in rows|groupby('zz') %}{{ g }}:{{ i|length }};{% endfor %}",
    "{{ dict([('a',1),('b',2)]) }}",
    '{{ dict(pairs) }}',
    '{{ dict(pairs, z=3, x=9) }}',
    '{{ dict(d, z=3) }}',
    '{{ dict(a=1) }}',
    '{{ dict() }}',
    '{{ dict([(1,2,3)]) }}',
    '{{ dict(5) }}',
    '{{ dict(nope) }}',
    '{{ dict(d.items()) }}',
    "{{ dict([('a',1),('a',2)]) }}",
    "{{ dict(['ab']) }}",
    '{{ dict(d, d) }}',
    '{% macro m(a) %}{{ a }}|{{ varargs }}|{{ kwargs }}{% endmacro %}{{ m(1) }} {{ m(1,2,3) }} {{ m(1,x=2) }} {{ m(a=5,b=6) }} {{ m() }}',
    '{% macro m(a, b=3) %}{{ a }},{{ b }},{{ varargs }}{% endmacro %}{{ m(1) }};{{ m(1,2) }};{{ m(1,2,3,4) }};{{ m(b=9,a=0) }}',
    "{% macro m(a, b=3) %}{{ a }},{{ b }},{{ kwargs }}{% endmacro %}{{ m(1) }};{{ m(1,2,c=3) }};{{ m(c=3) }};{{ m(a=1,q='x',r=[1]) }}",
    '{% macro m(a, b=3) %}{{ a }},{{ b }},{{ kwargs }}{% endmacro %}{{ m(1,2,3) }}',
    '{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1,2) }}',
    '{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}',
    '{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1,a=2) }}',
    '{% macro m(a) %}{{ a }}{{ varargs }}{% endmacro %}{{ m(b=2) }}',
    '{% macro m(a) %}{{ a }}{{ kwargs }}{% endmacro %}{{ m(1,a=2) }}',
    '{% macro m() %}{% for v in varargs %}{{ v }},{% endfor %}{{ varargs|length }}{% for k,v in kwargs.items() %}{{k}}{{v}}{% endfor %}{% endmacro %}{{ m(1,2,q=3) }}',
    '{% macro m(varargs) %}{{ varargs }}{% endmacro %}{{ m(1) }}',
    '{% macro m(kwargs) %}{{ kwargs }}{% endmacro %}{{ m(kwargs=1) }}',
    '{% macro m(a) %}[{{ a }}{{ caller() }}]{% endmacro %}{% call m(1) %}x{% endcall %}',
    '{% macro m(a) %}[{{ a }}{{ caller(1,2) }}]{% endmacro %}{% call(p,q) m(1) %}{{p}}{{q}}{% endcall %}',
    '{% macro m(a) %}[{{ a }}{{ caller(1,2) }}]{% endmacro %}{% call(p) m(1) %}{{p}}{{varargs}}{% endcall %}',
    '{% macro m(a) %}[{{ a }}]{% endmacro %}{% call m(1) %}x{% endcall %}',
    '{% macro m(a) %}[{{ a }}{{ caller() }}{{ varargs }}{{ kwargs }}]{% endmacro %}{% call m(1,2,z=3) %}x{% endcall %}',
    '{% macro m(a) %}[{{ a }}{{ caller is defined }}]{% endmacro %}{{ m(1) }}{% call m(1) %}x{% endcall %}',
    '{% macro m(a,b) %}{{ a }}{% endmacro %}{{ m.name }} {{ m.arguments }} {{ m.catch_kwargs }} {{ m.catch_varargs }} {{ m.caller }}',
    '{% macro m(a) %}{{ varargs }}{% endmacro %}{{ m.arguments }} {{ m.catch_kwargs }} {{ m.catch_varargs }}',
    '{% macro m(a) %}{{ a }}{% endmacro %}{{ m is callable }} {{ m is defined }} {{ m is mapping }}',
    '{{ self is defined }}',
    '{{ self is callable }}',
    '{% block x %}B{% endblock %}{{ self.x() }}',
    '{{ varargs is defined }}{{ kwargs is defined }}',
    '{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(3) }}',
    '{% macro f(n) %}{{ n }}{{ varargs }}{% if n > 0 %}{{ f(n-1, n, n) }}{% endif %}{% endmacro %}{{ f(2) }}',
    '{% set x = 1 %}{% macro f(n, m=x) %}{{ n }}{{ m }}{{ x }}{{ kwargs }}{% endmacro %}{{ f(2) }}{{ f(2,y=1) }}',
    '{% macro f(n) %}{% macro g(q) %}{{ q }}{{ varargs }}{% endmacro %}{{ g(n, 7) }}{% endmacro %}{{ f(2) }}',
    '{% macro f(n) %}{% for v in varargs %}{{ loop.index }}{{ v }}{% endfor %}{% endmacro %}{% for i in [1,2] %}{{ f(i, i, i+1) }};{% endfor %}',
    '{{ l|batch(2)|list }}',
    "{{ l|batch(linecount=2, fill_with='x')|list }}",
    "{{ [1.55]|map('round',1)|list }}",
    "{{ 1.5|round(method='ceil') }}",
    "{{ 1.55|round(1,'floor') }}",
    '{{ 3|abs }}',
    "{{ t|attr('x') }}",
    '{{ l|first(1) }}',
    '{{ l|slice(2)|list }}',
    '{{ l|reverse|list }}',
    "{{ l|select('equalto','A')|list }}",
    "{{ rows|map(attribute='p.q')|list }}",
    "{{ rows|map(attribute='zz',default='n')|list }}",
    "{{ l|map('default','x')|list }}",
    "{{ rows|selectattr('v','>',1)|map(attribute='k')|list }}",
    "{{ l|join(d=',') }}",
    '{{ t|indent(width=2, first=true) }}',
    '{{ l|last }}',
    '{{ l|upper(1) }}',
    "{{ rows|sum(attribute='v') }}",
    "{{ rows|map(attribute='v')|sum(start=1) }}",
    '{{ namespace(a=1).a }}',
    '{{ range(3)|list }}',
    '{{ l|list|unique|sort|first }}',
    '{{ [0,-0.0,0.5]|sort }}',
    "{{ l|map('upper')|sort|unique|join }}",
    "{{ {'a':1}|dictsort(1,2,3,4) }}",
    '{% set caller = 3 %}{{ caller }}',
    '{% macro m() %}{{ self is defined }}{% endmacro %}{{ m() }}',
]


def outcome(environment, program):
    try:
        return {"text": environment.from_string(program).render(**VARIABLES)}
    except Exception as error:  # any error of a program is an outcome
        return {"error": str(error)}


def main():
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    programs = [{"template": program, **outcome(environment, program)} for program in PROGRAMS]
    file = pathlib.Path(__file__).parent.parent / "tests/data/text/programs.json"
    document = {"variables": VARIABLES, "programs": programs}
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
