"""Style and script of the report page: inline, so that the file needs nothing else."""

STYLE = """
:root{color-scheme:light;--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--ink2:#5c6778;--grid:#e4e8ee;--accent:#2f6fde;
--good:#157347;--bad:#b3261e;--heat:47,111,222;
--s0:#2f6fde;--s1:#d9730d;--s2:#1b8a5a;--s3:#c2418b;--s4:#7a5af5;--s5:#a87b00;--s6:#0e8fa8;--s7:#6b7280}
:root[data-theme=dark]{color-scheme:dark;--bg:#11151c;--card:#1a202a;--ink:#e8ecf2;--ink2:#9aa6b6;--grid:#2c3542;
--accent:#6ea0ff;--good:#4cc38a;--bad:#ff8a80;--heat:110,160,255;
--s0:#6ea0ff;--s1:#ffa14d;--s2:#4cc38a;--s3:#f27dc0;--s4:#a996ff;--s5:#e3b341;--s6:#4cc7de;--s7:#9aa4b2}
@media (prefers-color-scheme:dark){:root:not([data-theme=light]){color-scheme:dark;--bg:#11151c;--card:#1a202a;
--ink:#e8ecf2;--ink2:#9aa6b6;--grid:#2c3542;--accent:#6ea0ff;--good:#4cc38a;--bad:#ff8a80;--heat:110,160,255;
--s0:#6ea0ff;--s1:#ffa14d;--s2:#4cc38a;--s3:#f27dc0;--s4:#a996ff;--s5:#e3b341;--s6:#4cc7de;--s7:#9aa4b2}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans",sans-serif}
header,main{max-width:1120px;margin:auto;padding:0 16px}
header{display:flex;gap:12px;align-items:flex-start;justify-content:space-between;padding-top:24px}
h1{font-size:26px;margin:0;line-height:1.2;overflow-wrap:anywhere}
h2{font-size:17px;margin:0 0 4px}
h3{font-size:14px;margin:16px 0 4px}
.note{color:var(--ink2);margin:0 0 10px;font-size:13.5px}
button,select,input{font:inherit;color:inherit;background:var(--card);border:1px solid var(--grid);border-radius:8px;
padding:6px 12px;min-height:38px}
button{cursor:pointer;white-space:nowrap}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:12px;margin:16px 0}
.tile,section{background:var(--card);border:1px solid var(--grid);border-radius:12px;padding:14px 16px}
.tile b{display:block;font-size:24px;line-height:1.25}
.tile span{color:var(--ink2);font-size:13px}
.grid{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:14px;margin-bottom:40px}
.wide{grid-column:1/-1}
section{min-width:0}
.chart,.scroll{overflow-x:auto}
svg{display:block;width:100%;min-width:440px;height:auto}
.wide svg{max-width:660px}
svg text{fill:var(--ink2);font-size:12px;font-family:inherit}
svg text.value{fill:var(--ink);font-weight:600}
.legend{margin:2px 0 6px;font-size:13px;color:var(--ink2)}
.legend span{margin-right:14px;white-space:nowrap}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:5px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{padding:5px 9px;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
th{color:var(--ink2);font-weight:600}
th:first-child,td:first-child{text-align:left}
td small{color:var(--ink2);font-size:11.5px}
.up{color:var(--good)}.down{color:var(--bad)}
.heat td{text-align:center;border:2px solid var(--card);border-radius:6px}
.heat td:first-child{text-align:left}
.filters{display:flex;flex-wrap:wrap;gap:10px;align-items:center;margin:8px 0 12px}
.pair{border-top:1px solid var(--grid);padding:12px 0}
.text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;margin:4px 0;text-align:start}
.prompt{font-weight:600}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:12px}
.side{border:1px solid var(--grid);border-radius:8px;padding:8px 12px;border-left-width:4px;min-width:0}
.chosen{border-left-color:var(--good)}.rejected{border-left-color:var(--bad)}
.side small,.pair>small,summary{color:var(--ink2);font-size:12.5px}
summary{cursor:pointer;padding:6px 0}
.candidates th{text-align:start}
.candidates td{white-space:normal;text-align:start;vertical-align:top;unicode-bidi:isolate}
@media (max-width:760px){.grid,.sides{grid-template-columns:minmax(0,1fr)}h1{font-size:21px}.tile b{font-size:20px}}
"""

# Texts from models reach the page through textContent only, in elements whose direction is their own.
SCRIPT = """
'use strict';
const root=document.documentElement;
document.getElementById('theme').addEventListener('click',()=>{
  const dark=root.dataset.theme?root.dataset.theme==='dark':matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme=dark?'light':'dark';
});
"""

# The browser of pairs, where there are any.
BROWSER = """
const pairs=JSON.parse(document.getElementById('pairs').textContent);
const list=document.getElementById('list'),count=document.getElementById('count'),more=document.getElementById('more');
const language=document.getElementById('language'),round=document.getElementById('round');
const words=document.getElementById('words');
const STEP=12;let shown=STEP;
function node(name,text,cls,auto){const e=document.createElement(name);if(text!=null)e.textContent=text;
  if(cls)e.className=cls;if(auto)e.dir='auto';return e;}
function score(v){return v==null?'–':Number(v).toFixed(3);}
function side(title,cls,text,value){const e=node('div',null,'side '+cls);
  e.append(node('small',title+' · score '+score(value)),node('p',text,'text',true));return e;}
function draw(p){
  const e=node('div',null,'pair');
  e.append(node('small',p.language+' · round '+p.round+' · '+p.source+' · '+p.id));
  e.append(node('p',p.prompt,'text prompt',true));
  const sides=node('div',null,'sides');
  sides.append(side('chosen','chosen',p.chosen,p.chosen_score),side('rejected','rejected',p.rejected,p.rejected_score));
  e.append(sides);
  if(p.candidates.length){
    const d=node('details');d.append(node('summary','all '+p.candidates.length+' candidates, scores and gates'));
    d.addEventListener('toggle',()=>{
      if(!d.open||d.querySelector('table'))return;
      const box=node('div',null,'scroll'),t=node('table',null,'candidates'),h=node('tr');
      for(const name of ['score','gate','language','source','answer'])h.append(node('th',name));
      t.append(h);
      for(const c of p.candidates){const r=node('tr');
        r.append(node('td',score(c.score)),node('td',c.gate),node('td',c.detected||'unsure'),
          node('td',c.source+' '+c.sample),node('td',c.text,null,true));t.append(r);}
      box.append(t);d.append(box);
    });
    e.append(d);
  }
  return e;
}
function show(){
  const fits=(filter,value)=>!filter.value||filter.value===String(value);
  const sought=words.value.trim().toLowerCase();
  const holds=p=>!sought||[p.prompt,p.chosen,p.rejected].some(text=>text.toLowerCase().includes(sought));
  const kept=pairs.filter(p=>fits(language,p.language)&&fits(round,p.round)&&holds(p));
  list.replaceChildren(...kept.slice(0,shown).map(draw));
  count.textContent=Math.min(shown,kept.length)+' of '+kept.length;
  more.hidden=kept.length<=shown;
}
for(const filter of [language,round])filter.addEventListener('change',()=>{shown=STEP;show();});
words.addEventListener('input',()=>{shown=STEP;show();});
more.addEventListener('click',()=>{shown+=STEP;show();});
show();
"""
