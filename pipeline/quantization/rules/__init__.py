"""How float operators become int8: one rule for each, in the module of its family. Importing this registers all.

To make an operator quantizable, add a function under `@quantization_rule` to the module of its family. Operators
without a rule stay in float. See docs/adding-an-operator.md.
"""

from __future__ import annotations

from pipeline.quantization.rules import conv as conv
from pipeline.quantization.rules import elementwise as elementwise
from pipeline.quantization.rules import matmul as matmul
from pipeline.quantization.rules import movement as movement
from pipeline.quantization.rules import normalization as normalization
from pipeline.quantization.rules import pooling as pooling
from pipeline.quantization.rules import resize as resize
from pipeline.quantization.rules.elementwise import HardSwish as HardSwish
from pipeline.quantization.rules.elementwise import stays_float as stays_float
from pipeline.quantization.rules.rule import Context as Context
from pipeline.quantization.rules.rule import NotQuantizable as NotQuantizable
from pipeline.quantization.rules.rule import Role as Role
from pipeline.quantization.rules.rule import activations as activations
from pipeline.quantization.rules.rule import kind_of as kind_of
from pipeline.quantization.rules.rule import kinds as kinds
from pipeline.quantization.rules.rule import operator_without_rule as operator_without_rule
from pipeline.quantization.rules.rule import role_of as role_of
from pipeline.quantization.rules.rule import rule_for as rule_for
from pipeline.quantization.rules.rule import rules as rules
